#ifndef TOOLS_COMPARE_CONFIGS_H_
#define TOOLS_COMPARE_CONFIGS_H_

// Configs of two checkpoints, and which of their differences are no more than a way of writing: programs write out
// defaults that others leave away.  Does not link libtorch.  Thread-safe.

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "checkpoint/format/checkpoint_format.h"

namespace waypoint {

// One line each.
struct ConfigDifferences {
  std::vector<std::string> real;
  // What one side says and the other, by its silence or in other words, says too.
  std::vector<std::string> written_out;
};

// The native configs: "modified: decoder.num_blocks: 3 -> 4", as protobuf tells them.
ConfigDifferences CompareModelConfigs(const CheckpointMetadata& a, const CheckpointMetadata& b);

// All keys of config.json, of two directories of the external format `format`: "config.json: eos_token_id: 2 != 7", by
// key; what the keys mean to the native config does not matter.  Errors: those of ParseJson.
absl::StatusOr<ConfigDifferences> CompareConfigFiles(const std::string& format, const OpenedCheckpoint& a,
                                                     const OpenedCheckpoint& b);

}  // namespace waypoint

#endif  // TOOLS_COMPARE_CONFIGS_H_
