#include "checkpoint/format/file_record.h"

#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/container/chunk_recorder.h"
#include "checkpoint/format/asset_copy.h"

namespace waypoint {
namespace {

constexpr int64_t kMaxChunkBytes = int64_t{64} << 20;

// No slash of either kind, no control character, not beginning with '.' or '-': stays in its directory, and is no
// hidden file and no option of a command.
bool IsPlainName(absl::string_view name) {
  if (name.empty() || name.size() > 255 || name[0] == '.' || name[0] == '-') {
    return false;
  }
  for (const char c : name) {
    if (static_cast<unsigned char>(c) < 0x20 || c == '/' || c == '\\' || c == 0x7f) {
      return false;
    }
  }
  return true;
}

constexpr char kAssetPrefix[] = "assets/";

}  // namespace

std::string AssetNameOf(const FileRecord& file) { return std::string(absl::StripPrefix(file.name(), kAssetPrefix)); }

absl::Status CheckFileRecord(const FileRecord& file) {
  absl::string_view name = file.name();
  if (file.kind() == FileRecord::ASSET && absl::ConsumePrefix(&name, kAssetPrefix)) {
    absl::ConsumePrefix(&name, absl::StrCat(kTemplateDirectory, "/"));
  }
  if (!IsPlainName(name)) {
    return MakeError(ErrorKind::kPath, absl::StrCat("file \"", file.name(), "\" is no plain name"));
  }
  if (file.kind() != FileRecord::WEIGHTS && file.kind() != FileRecord::OPTIMIZER_STATE &&
      file.kind() != FileRecord::ASSET && file.kind() != FileRecord::RANK) {
    return MakeError(ErrorKind::kSchema, absl::StrCat("file \"", file.name(), "\" has unknown kind ", file.kind()));
  }
  if (file.size_bytes() < 0) {
    return MakeError(ErrorKind::kSchema, absl::StrCat("file \"", file.name(), "\" has ", file.size_bytes(), " bytes"));
  }
  if (file.chunk_bytes() < 4096 || file.chunk_bytes() > kMaxChunkBytes || file.chunk_bytes() % 4096 != 0) {
    return MakeError(ErrorKind::kSchema, absl::StrCat("file \"", file.name(), "\" has chunks of ", file.chunk_bytes(),
                                                      " bytes, wanted a multiple of 4096 up to ", kMaxChunkBytes));
  }
  const int64_t chunks = file.size_bytes() / file.chunk_bytes() + (file.size_bytes() % file.chunk_bytes() != 0);
  const auto digest_bytes = static_cast<int64_t>(file.chunk_digests().size());
  if (digest_bytes % 8 != 0 || digest_bytes / 8 != chunks) {
    return MakeError(ErrorKind::kSizeMismatch,
                     absl::StrCat("file \"", file.name(), "\" has ", digest_bytes,
                                  " bytes of digests, wanted 8 for each of ", chunks, " chunks"));
  }
  return absl::OkStatus();
}

ChunkDigests DigestsOf(const FileRecord& file) {
  ChunkDigests digests;
  digests.chunk_bytes = file.chunk_bytes();
  digests.digests.resize(file.chunk_digests().size() / 8);
  if (!digests.digests.empty()) {  // an empty asset has none, and memcpy takes no null
    std::memcpy(digests.digests.data(), file.chunk_digests().data(), digests.digests.size() * 8);
  }
  return digests;
}

void SetDigests(const ChunkDigests& digests, FileRecord* file) {
  file->set_chunk_bytes(digests.chunk_bytes);
  file->set_chunk_digests(digests.digests.data(), digests.digests.size() * sizeof(uint64_t));
}

absl::StatusOr<std::unique_ptr<ReadableFile>> OpenRecorded(FileSystem& fs, const std::string& path,
                                                           const FileRecord& record) {
  WAYPOINT_ASSIGN_OR_RETURN(const bool exists, Exists(fs, path));
  if (!exists) {
    return MakeError(ErrorKind::kMissing, absl::StrCat("\"", path, "\" is missing; the manifest lists it"));
  }
  OpenOptions no_follow;
  no_follow.no_follow = true;
  WAYPOINT_ASSIGN_OR_RETURN(auto file, fs.OpenForRead(path, no_follow));
  if (file->size_bytes() != record.size_bytes()) {
    return MakeError(
        file->size_bytes() < record.size_bytes() ? ErrorKind::kTruncated : ErrorKind::kTrailing,
        absl::StrCat("\"", path, "\" has ", file->size_bytes(), " bytes, the manifest says ", record.size_bytes()));
  }
  return file;
}

absl::StatusOr<std::vector<FileRecord>> CopyAssets(FileSystem& fs, const std::vector<Asset>& assets,
                                                   const std::string& directory) {
  std::vector<FileRecord> records;
  if (assets.empty()) {
    return records;
  }
  const std::string asset_directory = JoinPath(directory, kAssetDirectory);
  WAYPOINT_RETURN_IF_ERROR(fs.MakeDirectory(asset_directory));
  for (const Asset& asset : assets) {
    WAYPOINT_ASSIGN_OR_RETURN(const ChunkDigests digests, CopyAsset(fs, asset, JoinPath(asset_directory, asset.name)));
    FileRecord& file = records.emplace_back();
    file.set_name(absl::StrCat(kAssetPrefix, asset.name));
    file.set_kind(FileRecord::ASSET);
    file.set_size_bytes(asset.size_bytes);
    SetDigests(digests, &file);
  }
  WAYPOINT_RETURN_IF_ERROR(fs.SyncDirectory(asset_directory));
  return records;
}

void AddConversion(const Conversion& conversion, const std::vector<FileRecord>& assets, CheckpointMetadata* metadata) {
  Conversion& added = *metadata->add_conversions();
  added = conversion;
  if (!conversion.sha256().empty()) {
    return;
  }
  for (const FileRecord& asset : assets) {
    ConvertedFile& file = *added.add_files();
    file.set_name(AssetNameOf(asset));
    file.set_size_bytes(asset.size_bytes());
    file.set_digest(FileDigest(DigestsOf(asset).digests));
  }
}

}  // namespace waypoint
