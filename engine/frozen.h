#ifndef ENGINE_FROZEN_H_
#define ENGINE_FROZEN_H_

// Which parameters a run leaves as they are: config.frozen.
//
// A pattern is the name of a parameter or its first segments: "embeddings", "decoder.0",
// "decoder.0.mlp.layer_1.weight".
// "*" stands for any run of characters but dots: "decoder.*.mixer", "decoder.*.norm_*".
//
// A frozen parameter has no gradient and no optimizer state, is not in the gradient's norm and does not decay; it is
// cut over ranks, saved and exported as any other.  When a run goes on with other patterns, parameters that were frozen
// begin with moments of zero, and those that are frozen now leave their moments behind.
//
// Pure; thread-safe.

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "engine/config.pb.h"

namespace waypoint::engine {

bool IsFrozen(const TrainConfig& config, absl::string_view parameter);

// E_REQUEST for patterns that no parameter of the model matches, with some that there are, and when nothing is left to
// train.  config.model is validated.
absl::Status CheckFrozen(const TrainConfig& config);

// Names of the model's parameters, in the order of the forward pass.
struct FreezingChange {
  std::vector<std::string> thawed;  // frozen before, trained now
  std::vector<std::string> frozen;  // the other way round
};
// Of the parameters of `now`, which is checked.
FreezingChange CompareFreezing(const TrainConfig& before, const TrainConfig& now);
// A line for each of the two that there is.
std::vector<std::string> FreezingNotes(const FreezingChange& change);

}  // namespace waypoint::engine

#endif  // ENGINE_FROZEN_H_
