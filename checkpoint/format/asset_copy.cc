#include "checkpoint/format/asset_copy.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/aligned_buffer.h"
#include "checkpoint/base/digest.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"

namespace waypoint {

absl::StatusOr<ChunkDigests> CopyAsset(FileSystem& fs, const Asset& asset, const std::string& target) {
  WAYPOINT_ASSIGN_OR_RETURN(auto from, fs.OpenForRead(asset.path, {}));
  if (from->size_bytes() != asset.size_bytes) {
    return MakeError(ErrorKind::kTruncated, absl::StrCat("\"", asset.path, "\" has ", from->size_bytes(),
                                                         " bytes, had ", asset.size_bytes, " a moment ago"));
  }
  // Below a directory of its own, which the first of them makes.
  const bool nested = absl::StrContains(asset.name, '/');
  if (nested) {
    WAYPOINT_RETURN_IF_ERROR(MakeDirectories(fs, DirName(target)));
  }
  CreateOptions options;
  options.size_bytes = asset.size_bytes;
  WAYPOINT_ASSIGN_OR_RETURN(auto to, fs.Create(target, options));
  ChunkDigests digests;
  AlignedBuffer buffer(kDigestChunkBytes);
  for (int64_t offset = 0; offset < asset.size_bytes; offset += kDigestChunkBytes) {
    const absl::Span<char> chunk = buffer.span().subspan(0, std::min(kDigestChunkBytes, asset.size_bytes - offset));
    WAYPOINT_RETURN_IF_ERROR(from->Read(offset, chunk));
    digests.digests.push_back(Xxh3(chunk));
    const size_t index = digests.digests.size() - 1;
    if (!asset.digests.digests.empty() &&
        (index >= asset.digests.digests.size() || asset.digests.digests[index] != digests.digests[index])) {
      return MakeError(ErrorKind::kChecksum, absl::StrCat("\"", asset.path, "\": chunk ", index, " at ", offset, " has digest ",
                                                          DigestHex(digests.digests[index]),
                                                          ", the manifest says otherwise; the file was damaged"));
    }
    WAYPOINT_RETURN_IF_ERROR(to->Write(offset, chunk));
  }
  WAYPOINT_RETURN_IF_ERROR(to->Sync());
  WAYPOINT_RETURN_IF_ERROR(to->Close());
  if (nested) {
    WAYPOINT_RETURN_IF_ERROR(fs.SyncDirectory(DirName(target)));
  }
  return digests;
}

}  // namespace waypoint
