#include "engine/learning_rate.h"

#include "optimizer/schedule.h"

namespace waypoint::engine {

double LearningRateOf(const TrainConfig& config, int64_t completed_steps) {
  CosineSchedule schedule;
  schedule.peak = config.optimizer().lr();
  schedule.warmup_steps = config.schedule().warmup_steps();
  schedule.total_steps = config.schedule().decay_steps();
  schedule.minimum_ratio = config.schedule().min_ratio();
  return LearningRateAt(schedule, completed_steps);
}

}  // namespace waypoint::engine
