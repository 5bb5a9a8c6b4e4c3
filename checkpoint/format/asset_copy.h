#ifndef CHECKPOINT_FORMAT_ASSET_COPY_H_
#define CHECKPOINT_FORMAT_ASSET_COPY_H_

// Copies and checks pass-through files, in pieces, with digests.  Thread-safe.

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "checkpoint/container/chunk_digests.h"
#include "checkpoint/format/checkpoint_format.h"
#include "checkpoint/storage/file_system.h"

namespace waypoint {

// Copies asset.path to `target` (which must not exist) and syncs it; the digests of what passed.
// Errors: E_IO, E_NO_SPACE; E_TRUNCATED when the source is not asset.size_bytes long any more; E_CHECKSUM when
// it is not what asset.digests say.
absl::StatusOr<ChunkDigests> CopyAsset(FileSystem& fs, const Asset& asset, const std::string& target);

// Reads the asset to its end and compares it with its digests, where it has any.
// Errors: E_IO, E_TRUNCATED, E_CHECKSUM, as CopyAsset.
absl::StatusOr<ChunkDigests> CheckAsset(FileSystem& fs, const Asset& asset);

// CheckAsset of all of them: damage shows now, and not when somebody copies them.
absl::Status CheckAssets(FileSystem& fs, const std::vector<Asset>& assets);

// The offset of the first byte that differs, of assets of one size; -1 when none does.  Errors: E_IO, E_TRUNCATED.
absl::StatusOr<int64_t> FirstDifference(FileSystem& fs, const Asset& a, const Asset& b);

}  // namespace waypoint

#endif  // CHECKPOINT_FORMAT_ASSET_COPY_H_
