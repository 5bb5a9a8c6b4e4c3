#ifndef TOOLS_INSPECT_TRAINING_H_
#define TOOLS_INSPECT_TRAINING_H_

// What a checkpoint says of the run that saved it.  Does not link libtorch.  Thread-safe.

#include <string>
#include <vector>

#include "checkpoint/format/metadata.pb.h"
#include "nlohmann/json.hpp"

namespace waypoint {

// "  step 12, loss 1.5, learning rate 0.0003 (of the last step), 3072 tokens of data read\n", and a line for the file that
// they came from.  The learning rate is what the trainer's config says of that step: nothing of it is saved.
std::string TrainingText(const TrainingState& training);
// The trainer's config, without the model, which the checkpoint's own says.  As it is where it is no config of ours.
std::vector<std::string> TrainerConfigLines(const TrainingState& training);
// Numbers of the above, "learning_rate" null where it cannot be told; metrics; the whole config as text.
nlohmann::ordered_json TrainingJson(const TrainingState& training);

}  // namespace waypoint

#endif  // TOOLS_INSPECT_TRAINING_H_
