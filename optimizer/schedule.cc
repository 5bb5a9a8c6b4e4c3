#include "optimizer/schedule.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"

namespace waypoint {

absl::Status ValidateSchedule(const CosineSchedule& schedule) {
  if (!std::isfinite(schedule.peak) || schedule.peak < 0) {
    return MakeError(ErrorKind::kRequest, absl::StrCat("peak is ", schedule.peak, ", must be finite and not negative"));
  }
  if (schedule.total_steps < 1) {
    return MakeError(ErrorKind::kRequest, absl::StrCat("total_steps is ", schedule.total_steps, ", must be positive"));
  }
  if (schedule.warmup_steps < 0 || schedule.warmup_steps > schedule.total_steps) {
    return MakeError(ErrorKind::kRequest,
                     absl::StrCat("warmup_steps is ", schedule.warmup_steps,
                                  ", must be between 0 and total_steps, which is ", schedule.total_steps));
  }
  if (!(schedule.minimum_ratio >= 0 && schedule.minimum_ratio <= 1)) {
    return MakeError(ErrorKind::kRequest,
                     absl::StrCat("minimum_ratio is ", schedule.minimum_ratio, ", must be between 0 and 1"));
  }
  return absl::OkStatus();
}

double LearningRateAt(const CosineSchedule& schedule, int64_t completed_steps) {
  if (completed_steps < schedule.warmup_steps) {
    return schedule.peak * static_cast<double>(completed_steps + 1) / static_cast<double>(schedule.warmup_steps);
  }
  double ratio = schedule.minimum_ratio;
  if (completed_steps < schedule.total_steps) {
    constexpr double kPi = 3.14159265358979323846;
    const double progress = static_cast<double>(completed_steps - schedule.warmup_steps) /
                            static_cast<double>(schedule.total_steps - schedule.warmup_steps);
    ratio += (1 - schedule.minimum_ratio) * 0.5 * (1 + std::cos(kPi * progress));
  }
  return schedule.peak * ratio;
}

}  // namespace waypoint
