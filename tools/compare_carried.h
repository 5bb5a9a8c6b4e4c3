#ifndef TOOLS_COMPARE_CARRIED_H_
#define TOOLS_COMPARE_CARRIED_H_

// The files that travel along with two checkpoints, compared.
//
//   WAYPOINT_ASSIGN_OR_RETURN(const std::vector<std::string> differences, CompareCarriedFiles(fs, a, b));
//
// Thread-safe.

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "checkpoint/format/checkpoint_format.h"
#include "checkpoint/storage/file_system.h"

namespace waypoint {

// "tokenizer.json: 3 bytes != 4 bytes", by name.  Both as they were opened.  Files are read in pieces, and no further
// than to the first that differs.  Errors: the file system's.
absl::StatusOr<std::vector<std::string>> CompareCarriedFiles(FileSystem& fs, const OpenedCheckpoint& a,
                                                             const OpenedCheckpoint& b);

}  // namespace waypoint

#endif  // TOOLS_COMPARE_CARRIED_H_
