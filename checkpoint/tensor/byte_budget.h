#ifndef CHECKPOINT_TENSOR_BYTE_BUDGET_H_
#define CHECKPOINT_TENSOR_BYTE_BUDGET_H_

// A bound on bytes that are held at a time, shared by threads.  Thread-safe.

#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <mutex>

#include "absl/base/thread_annotations.h"

namespace waypoint {

class ByteBudget {
 public:
  explicit ByteBudget(int64_t limit_bytes) : limit_bytes_(limit_bytes) {}

  // Waits until the bytes fit.  A request over the limit is admitted when nothing else is held.
  void Acquire(int64_t bytes) {
    std::unique_lock<std::mutex> lock(mutex_);
    released_.wait(lock, [this, bytes] { return held_ == 0 || held_ + bytes <= limit_bytes_; });
    held_ += bytes;
    peak_ = std::max(peak_, held_);
  }

  void Release(int64_t bytes) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      held_ -= bytes;
    }
    released_.notify_all();
  }

  int64_t peak_bytes() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return peak_;
  }

 private:
  const int64_t limit_bytes_;
  mutable std::mutex mutex_;
  std::condition_variable released_;
  int64_t held_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t peak_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace waypoint

#endif  // CHECKPOINT_TENSOR_BYTE_BUDGET_H_
