#ifndef MODELS_DECODER_COMPUTE_THREADS_H_
#define MODELS_DECODER_COMPUTE_THREADS_H_

// The threads that libtorch computes with on CPUs.

#include "absl/status/status.h"

namespace waypoint::models {

// Has libtorch compute with so many threads from here on, in calls from this thread, and starts them.  Where one cannot be
// started, libgomp ends the process and libpthreadpool hangs: here that is E_NO_MEMORY or E_LIMIT, found before.
absl::Status StartComputeThreads(int threads);

}  // namespace waypoint::models

#endif  // MODELS_DECODER_COMPUTE_THREADS_H_
