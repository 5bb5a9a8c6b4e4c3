#ifndef CHECKPOINT_FORMAT_ASSET_COPY_H_
#define CHECKPOINT_FORMAT_ASSET_COPY_H_

// Copies pass-through files, in pieces, with digests.  Thread-safe.

#include <string>

#include "absl/status/statusor.h"
#include "checkpoint/container/chunk_digests.h"
#include "checkpoint/format/checkpoint_format.h"
#include "checkpoint/storage/file_system.h"

namespace waypoint {

// Copies asset.path to `target` (which must not exist) and syncs it; the digests of what passed.
// Errors: E_IO, E_NO_SPACE; E_TRUNCATED when the source is not asset.size_bytes long any more; E_CHECKSUM when
// it is not what asset.digests say.
absl::StatusOr<ChunkDigests> CopyAsset(FileSystem& fs, const Asset& asset, const std::string& target);

}  // namespace waypoint

#endif  // CHECKPOINT_FORMAT_ASSET_COPY_H_
