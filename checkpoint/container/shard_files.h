#ifndef CHECKPOINT_CONTAINER_SHARD_FILES_H_
#define CHECKPOINT_CONTAINER_SHARD_FILES_H_

// Which file of a checkpoint holds which tensor, as Hugging Face does it.  Thread-safe.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "checkpoint/tensor/manifest.h"

namespace waypoint {

struct ShardFile {
  std::string name;
  std::vector<int64_t> tensors;  // indices into the manifest
};

// In order, a new file when the next tensor would exceed max_file_bytes; names "<stem><extension>" for one file,
// "<stem>-00001-of-00003<extension>" for several.  No tensors, no file.
std::vector<ShardFile> PlanShardFiles(const Manifest& manifest, const std::vector<int64_t>& tensors,
                                      absl::string_view stem, absl::string_view extension, int64_t max_file_bytes);

// Is it a name that PlanShardFiles gives?
bool IsShardFileName(absl::string_view name, absl::string_view stem, absl::string_view extension);

}  // namespace waypoint

#endif  // CHECKPOINT_CONTAINER_SHARD_FILES_H_
