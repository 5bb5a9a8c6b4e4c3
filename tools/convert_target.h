#ifndef TOOLS_CONVERT_TARGET_H_
#define TOOLS_CONVERT_TARGET_H_

// Where a conversion goes: which format, and whether the target directory may be made.  Does not link libtorch.
// Thread-safe.

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoint/format/checkpoint_format.h"
#include "checkpoint/storage/file_system.h"

namespace waypoint {

// `to` as written, or, for "auto": native for an external source, else the external format that the metadata names.
// Errors: E_REQUEST, listing the choices, for an unknown name and when nothing says where a native checkpoint goes.
absl::StatusOr<CheckpointFormat*> FindTargetFormat(const CheckpointFormat& source, const CheckpointMetadata& metadata,
                                                   const std::string& to);

// Refuses a target that is the source, lies inside it or holds it (E_REQUEST), and one that exists (E_EXISTS) without
// `overwrite`.  Whether what is there may be replaced, ReplacedDirectory tells (checkpointer/replaced_directory.h).
absl::Status CheckTargetPath(FileSystem& fs, const std::string& source, const std::string& target, bool overwrite);

// E_NO_SPACE unless the file system of the target has room for `bytes` more.
absl::Status CheckSpace(FileSystem& fs, const std::string& target, int64_t bytes);

}  // namespace waypoint

#endif  // TOOLS_CONVERT_TARGET_H_
