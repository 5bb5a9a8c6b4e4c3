#ifndef ENGINE_LEARNING_RATE_H_
#define ENGINE_LEARNING_RATE_H_

// The learning rate that a resolved config says: nothing of it is saved.  Does not link libtorch.  Thread-safe.

#include <cstdint>

#include "engine/config.pb.h"

namespace waypoint::engine {

// For the step after `completed_steps` updates.
double LearningRateOf(const TrainConfig& config, int64_t completed_steps);

}  // namespace waypoint::engine

#endif  // ENGINE_LEARNING_RATE_H_
