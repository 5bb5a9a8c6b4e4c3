#ifndef CHECKPOINT_CONTAINER_FILE_KIND_H_
#define CHECKPOINT_CONTAINER_FILE_KIND_H_

// What a file is that is not what it should be.  Thread-safe.

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "checkpoint/storage/file_system.h"

namespace waypoint {

// First bytes that FileKind looks at.
inline constexpr int64_t kFileKindBytes = 512;

// "a git-lfs pointer; fetch the real file with ...", from the first bytes of the file; empty when nothing is known.
absl::string_view FileKind(absl::string_view start);

// Of those, what stands in a repository for a file that was not fetched: pointers of git-lfs, git-xet and git-annex.
absl::string_view PointerKind(absl::string_view start);

// E_HEADER when a file that begins so is such a pointer.
absl::Status CheckNoPointer(absl::string_view start, absl::string_view path);
// The same, reading its beginning.  Errors: also E_IO.
absl::Status CheckNoPointer(FileSystem& fs, const std::string& path);

// ReadSmallFile, and E_HEADER where the file is such a pointer.
absl::StatusOr<std::string> ReadSmallRealFile(FileSystem& fs, const std::string& path, int64_t max_bytes,
                                              absl::string_view limit_name);

}  // namespace waypoint

#endif  // CHECKPOINT_CONTAINER_FILE_KIND_H_
