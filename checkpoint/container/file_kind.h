#ifndef CHECKPOINT_CONTAINER_FILE_KIND_H_
#define CHECKPOINT_CONTAINER_FILE_KIND_H_

// What a file is that is not what it should be.  Thread-safe.

#include <cstdint>

#include "absl/strings/string_view.h"

namespace waypoint {

// First bytes that FileKind looks at.
inline constexpr int64_t kFileKindBytes = 512;

// "a git-lfs pointer; fetch the real file with ...", from the first bytes of the file; empty when nothing is known.
absl::string_view FileKind(absl::string_view start);

}  // namespace waypoint

#endif  // CHECKPOINT_CONTAINER_FILE_KIND_H_
