#ifndef OPTIMIZER_SCHEDULE_H_
#define OPTIMIZER_SCHEDULE_H_

// Learning rate as a pure function of the step, so that nothing of it is ever saved.  Thread-safe.

#include <cstdint>

#include "absl/status/status.h"

namespace waypoint {

// Linear warm-up to `peak`, then half a cosine down to `minimum_ratio * peak` at total_steps, and constant after.
struct CosineSchedule {
  double peak = 1e-3;
  int64_t warmup_steps = 0;
  int64_t total_steps = 1;
  double minimum_ratio = 0.1;
};

// E_REQUEST naming the field: peak finite and not negative, 0 <= warmup_steps <= total_steps, total_steps >= 1,
// 0 <= minimum_ratio <= 1.
absl::Status ValidateSchedule(const CosineSchedule& schedule);

// For the step after `completed_steps` >= 0 updates, of a valid schedule.  The first warm-up step already moves:
// peak / warmup_steps.
double LearningRateAt(const CosineSchedule& schedule, int64_t completed_steps);

}  // namespace waypoint

#endif  // OPTIMIZER_SCHEDULE_H_
