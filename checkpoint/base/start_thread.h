#ifndef CHECKPOINT_BASE_START_THREAD_H_
#define CHECKPOINT_BASE_START_THREAD_H_

// std::thread throws where the system has no thread to give; here that is an error like others (E_LIMIT).
//
//   absl::StatusOr<std::thread> worker = StartThread([&job] { job.Work(); });
//
// Link with -lpthread.  Thread-safe.

#include <system_error>
#include <thread>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"

namespace waypoint {

template <typename Function>
absl::StatusOr<std::thread> StartThread(Function&& function) {
  try {
    return std::thread(std::forward<Function>(function));
  } catch (const std::system_error& e) {
    return MakeError(ErrorKind::kLimit, absl::StrCat("this process may have no further thread: ", e.what()));
  }
}

}  // namespace waypoint

#endif  // CHECKPOINT_BASE_START_THREAD_H_
