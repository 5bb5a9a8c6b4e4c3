#ifndef CHECKPOINT_STORAGE_FILE_ERRORS_H_
#define CHECKPOINT_STORAGE_FILE_ERRORS_H_

// The errors that every backend must word alike.  Thread-safe.

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace waypoint {

// E_IO with absl::StatusCode::kNotFound, which is how Exists() tells "nothing there" from a failing disk.
absl::Status FileNotFoundError(absl::string_view path);
// E_EXISTS.
absl::Status FileExistsError(absl::string_view path);
// E_TRUNCATED: [offset, offset + bytes) leaves a file of size_bytes.
absl::Status ReadPastEndError(absl::string_view path, int64_t offset, int64_t bytes, int64_t size_bytes);
// E_SIZE_MISMATCH: a file that several write has another size than they agreed on.
absl::Status SharedSizeError(absl::string_view path, int64_t size_bytes, int64_t wanted_bytes);
// E_LOCKED.  `holder` is what FileLockDescription() wrote; may be empty.
absl::Status FileLockedError(absl::string_view path, absl::string_view holder);

// What a lock file holds: "pid 123 on host since 2025-01-01T00:00:00Z".
std::string FileLockDescription();

}  // namespace waypoint

#endif  // CHECKPOINT_STORAGE_FILE_ERRORS_H_
