#ifndef CHECKPOINT_FORMAT_FILE_RECORD_H_
#define CHECKPOINT_FORMAT_FILE_RECORD_H_

// Files as sealed manifests record them: name, size, digests.  Thread-safe.

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoint/container/chunk_digests.h"
#include "checkpoint/format/checkpoint_format.h"
#include "checkpoint/format/file_record.pb.h"
#include "checkpoint/format/metadata.pb.h"
#include "checkpoint/storage/file_system.h"

namespace waypoint {

// E_PATH for a name that leaves the directory, E_SCHEMA, E_SIZE_MISMATCH for a digest table of another length.
absl::Status CheckFileRecord(const FileRecord& file);

ChunkDigests DigestsOf(const FileRecord& file);
void SetDigests(const ChunkDigests& digests, FileRecord* file);

// Follows no link.  E_MISSING, or E_TRUNCATED / E_TRAILING when the file has another size than recorded.
absl::StatusOr<std::unique_ptr<ReadableFile>> OpenRecorded(FileSystem& fs, const std::string& path,
                                                           const FileRecord& record);

// Where assets lie in a checkpoint of ours.
inline constexpr char kAssetDirectory[] = "assets";
// Asset::name of a record whose kind is ASSET.
std::string AssetNameOf(const FileRecord& file);

// Copies assets to <directory>/assets, durably, and returns what to record of them.  Nothing is made for no assets.
absl::StatusOr<std::vector<FileRecord>> CopyAssets(FileSystem& fs, const std::vector<Asset>& assets,
                                                   const std::string& directory);

// Appends to what was converted before.  Assets that were copied are files of the source, too, where it has no identity
// that speaks for them.
void AddConversion(const Conversion& conversion, const std::vector<FileRecord>& assets, CheckpointMetadata* metadata);

}  // namespace waypoint

#endif  // CHECKPOINT_FORMAT_FILE_RECORD_H_
