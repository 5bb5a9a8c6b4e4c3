#ifndef CHECKPOINT_FORMAT_CARRIED_KEYS_H_
#define CHECKPOINT_FORMAT_CARRIED_KEYS_H_

// No config key is lost in silence, from any format to any other.
//
// What the native config does not hold of an external config travels in CheckpointMetadata::external_configs.  Formats
// of ours keep that whole; an external one writes config files of its own, and may have no place for a key.  This is
// the one place that decides what happens then, by looking at what is written, whatever the format believes of itself.
//
// Does not link libtorch.  Thread-safe.

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "checkpoint/format/checkpoint_format.h"

namespace waypoint {

// Notes that name every key of `metadata`'s external configs that is not in what `writer`, of the format `target`,
// writes: the harmless ones with the reason why nothing is computed from them, and, with `drop_unknown`, the others.
// Errors: E_CONFIG without drop_unknown, where a key that nobody knows, and that was let in on request, would be lost:
// it may change what the model computes.
absl::StatusOr<std::vector<std::string>> AccountForCarriedKeys(const CheckpointFormat& target,
                                                               const CheckpointMetadata& metadata,
                                                               const CheckpointWriter& writer, bool drop_unknown);

}  // namespace waypoint

#endif  // CHECKPOINT_FORMAT_CARRIED_KEYS_H_
