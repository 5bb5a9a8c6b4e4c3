#ifndef CHECKPOINT_FORMAT_SAVED_STATE_H_
#define CHECKPOINT_FORMAT_SAVED_STATE_H_

// What of a state a checkpoint of ours holds: all tensors under their names, weights cast and optimizer state left out
// where asked. Thread-safe.

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "checkpoint/convert/weights/converted_source.h"
#include "checkpoint/format/checkpoint_format.h"

namespace waypoint {

// "<parameter>/exp_avg" and its like.
bool IsOptimizerState(absl::string_view tensor_name);

struct SavedState {
  std::unique_ptr<ConvertedSource> source;
  std::vector<std::string> notes;
};
// `state` is borrowed.
absl::StatusOr<SavedState> SelectState(TensorSource& state, const SaveOptions& options);

// For CheckpointWriter::PlanLines.
std::vector<std::string> StatePlanLines(const ConvertedSource& source);

}  // namespace waypoint

#endif  // CHECKPOINT_FORMAT_SAVED_STATE_H_
