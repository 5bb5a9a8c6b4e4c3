#ifndef CHECKPOINT_COORDINATION_DEADLINE_H_
#define CHECKPOINT_COORDINATION_DEADLINE_H_

// The end of a wait, by a clock that nobody sets: a jump of the time of day must not end a wait, nor prolong it.

#include <algorithm>
#include <chrono>

#include "absl/time/time.h"

namespace waypoint {

class Deadline {
 public:
  explicit Deadline(absl::Duration timeout)
      : end_(std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(std::min(timeout, absl::Hours(24 * 365)))) {}

  // Never negative.
  absl::Duration left() const {
    return std::max(absl::FromChrono(end_ - std::chrono::steady_clock::now()), absl::ZeroDuration());
  }
  bool passed() const { return left() == absl::ZeroDuration(); }

 private:
  std::chrono::steady_clock::time_point end_;
};

}  // namespace waypoint

#endif  // CHECKPOINT_COORDINATION_DEADLINE_H_
