#ifndef CHECKPOINT_BASE_START_THREAD_H_
#define CHECKPOINT_BASE_START_THREAD_H_

// std::thread throws where the system has no thread to give; here that is an error like others: E_NO_MEMORY where there
// is no memory for its stack, else E_LIMIT.
//
//   absl::StatusOr<std::thread> worker = StartThread([&job] { job.Work(); });
//
// What the thread runs throws nothing (catch_allocation.h): there is nobody above it to catch.
//
// Link with -lpthread.  Thread-safe.

#include <new>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/status/statusor.h"

namespace waypoint {

// Why there is no thread.  The system says the same for both; what tells them apart is whether there is memory for the
// stack of another one.
absl::Status NoThreadError(const std::system_error& e);
absl::Status NoThreadError(const std::bad_alloc& e);

template <typename Function>
absl::StatusOr<std::thread> StartThread(Function&& function) {
  try {
    return std::thread(std::forward<Function>(function));
  } catch (const std::system_error& e) {
    return NoThreadError(e);
  } catch (const std::bad_alloc& e) {
    return NoThreadError(e);
  }
}

}  // namespace waypoint

#endif  // CHECKPOINT_BASE_START_THREAD_H_
