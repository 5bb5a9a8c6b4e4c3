#ifndef CHECKPOINT_CONTAINER_TORCH_ZIP_ZIP_END_H_
#define CHECKPOINT_CONTAINER_TORCH_ZIP_ZIP_END_H_

// The end records of a zip archive: where its directory is.  Thread-safe.

#include <cstdint>

#include "absl/status/statusor.h"
#include "checkpoint/storage/file_system.h"

namespace waypoint {

struct ZipEnd {
  int64_t directory_begin = 0;
  int64_t directory_end = 0;  // the first byte of the end records
  int64_t entries = 0;
};

// The end record closes the file, but for its comment, and nothing else could be taken for one.  A 64-bit record is
// used where its locator stands right before the end record; then each field of the classic one repeats it or points to
// it. Errors: E_ZIP, E_IO.
absl::StatusOr<ZipEnd> ReadZipEnd(const ReadableFile& file);

}  // namespace waypoint

#endif  // CHECKPOINT_CONTAINER_TORCH_ZIP_ZIP_END_H_
