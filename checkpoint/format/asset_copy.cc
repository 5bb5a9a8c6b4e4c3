#include "checkpoint/format/asset_copy.h"

#include <algorithm>
#include <memory>

#include "absl/functional/function_ref.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/aligned_buffer.h"
#include "checkpoint/base/digest.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"

namespace waypoint {
namespace {

absl::StatusOr<std::unique_ptr<ReadableFile>> Open(FileSystem& fs, const Asset& asset) {
  WAYPOINT_ASSIGN_OR_RETURN(auto file, fs.OpenForRead(asset.path, {}));
  if (file->size_bytes() != asset.size_bytes) {
    return MakeError(ErrorKind::kTruncated, absl::StrCat("\"", asset.path, "\" has ", file->size_bytes(),
                                                         " bytes, had ", asset.size_bytes, " a moment ago"));
  }
  return file;
}

// Every chunk goes to `visit` when it was compared with its digest.
absl::StatusOr<ChunkDigests> ReadChunks(const ReadableFile& file, const Asset& asset,
                                        absl::FunctionRef<absl::Status(int64_t, absl::Span<const char>)> visit) {
  ChunkDigests digests;
  AlignedBuffer buffer(kDigestChunkBytes);
  for (int64_t offset = 0; offset < asset.size_bytes; offset += kDigestChunkBytes) {
    const absl::Span<char> chunk = buffer.span().subspan(0, std::min(kDigestChunkBytes, asset.size_bytes - offset));
    WAYPOINT_RETURN_IF_ERROR(file.Read(offset, chunk));
    digests.digests.push_back(Xxh3(chunk));
    const size_t index = digests.digests.size() - 1;
    if (!asset.digests.digests.empty() &&
        (index >= asset.digests.digests.size() || asset.digests.digests[index] != digests.digests[index])) {
      return MakeError(ErrorKind::kChecksum, absl::StrCat("\"", asset.path, "\": chunk ", index, " at ", offset,
                                                          " has digest ", DigestHex(digests.digests[index]),
                                                          ", the manifest says otherwise; the file was damaged"));
    }
    WAYPOINT_RETURN_IF_ERROR(visit(offset, chunk));
  }
  return digests;
}

}  // namespace

absl::StatusOr<ChunkDigests> CopyAsset(FileSystem& fs, const Asset& asset, const std::string& target) {
  WAYPOINT_ASSIGN_OR_RETURN(const auto from, Open(fs, asset));
  // Below a directory of its own, which the first of them makes.
  const bool nested = absl::StrContains(asset.name, '/');
  if (nested) {
    WAYPOINT_RETURN_IF_ERROR(MakeDirectories(fs, DirName(target)));
  }
  CreateOptions options;
  options.size_bytes = asset.size_bytes;
  WAYPOINT_ASSIGN_OR_RETURN(auto to, fs.Create(target, options));
  WAYPOINT_ASSIGN_OR_RETURN(ChunkDigests digests,
                            ReadChunks(*from, asset, [&to](int64_t offset, absl::Span<const char> chunk) {
                              return to->Write(offset, chunk);
                            }));
  WAYPOINT_RETURN_IF_ERROR(to->Sync());
  WAYPOINT_RETURN_IF_ERROR(to->Close());
  if (nested) {
    WAYPOINT_RETURN_IF_ERROR(fs.SyncDirectory(DirName(target)));
  }
  return digests;
}

absl::StatusOr<ChunkDigests> CheckAsset(FileSystem& fs, const Asset& asset) {
  WAYPOINT_ASSIGN_OR_RETURN(const auto file, Open(fs, asset));
  return ReadChunks(*file, asset, [](int64_t, absl::Span<const char>) { return absl::OkStatus(); });
}

absl::Status CheckAssets(FileSystem& fs, const std::vector<Asset>& assets) {
  for (const Asset& asset : assets) {
    WAYPOINT_RETURN_IF_ERROR(CheckAsset(fs, asset).status());
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> FirstDifference(FileSystem& fs, const Asset& a, const Asset& b) {
  WAYPOINT_ASSIGN_OR_RETURN(const auto first, Open(fs, a));
  WAYPOINT_ASSIGN_OR_RETURN(const auto second, Open(fs, b));
  AlignedBuffer left(kDigestChunkBytes);
  AlignedBuffer right(kDigestChunkBytes);
  for (int64_t offset = 0; offset < a.size_bytes; offset += kDigestChunkBytes) {
    const int64_t bytes = std::min(kDigestChunkBytes, a.size_bytes - offset);
    WAYPOINT_RETURN_IF_ERROR(first->Read(offset, left.span().subspan(0, bytes)));
    WAYPOINT_RETURN_IF_ERROR(second->Read(offset, right.span().subspan(0, bytes)));
    const char* const differing = std::mismatch(left.data(), left.data() + bytes, right.data()).first;
    if (differing != left.data() + bytes) {
      return offset + (differing - left.data());
    }
  }
  return -1;
}

}  // namespace waypoint
