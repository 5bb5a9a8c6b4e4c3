#ifndef TOOLS_COMPARE_CARRIED_H_
#define TOOLS_COMPARE_CARRIED_H_

// What two directories of one external format hold beside the model: config values that the native config does not
// model (token ids, max_position_embeddings, torch_dtype) and files that travel along.
//
//   WAYPOINT_ASSIGN_OR_RETURN(const CarriedDifferences differences, CompareCarried(fs, a, b));
//
// Thread-safe.

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "checkpoint/format/checkpoint_format.h"
#include "checkpoint/storage/file_system.h"

namespace waypoint {

struct CarriedDifferences {
  // "config.json: eos_token_id: 2 != 7", by key; every key counts, however the native config takes it.
  std::vector<std::string> config;
  // "tokenizer.json: 3 bytes != 4 bytes", by name.
  std::vector<std::string> files;
};

// Both as they were opened.  Files are read in pieces, and no further than to the first that differs.
// Errors: the file system's; those of ParseJson.
absl::StatusOr<CarriedDifferences> CompareCarried(FileSystem& fs, const OpenedCheckpoint& a, const OpenedCheckpoint& b);

}  // namespace waypoint

#endif  // TOOLS_COMPARE_CARRIED_H_
