#include "checkpoint/format/file_checks.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/aligned_buffer.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/json.h"
#include "checkpoint/base/md5.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/container/chunk_recorder.h"

namespace waypoint {
namespace {

constexpr int64_t kPieceBytes = int64_t{4} << 20;

struct OpenedFile {
  const ListedFile* listed = nullptr;
  std::unique_ptr<ReadableFile> file;
};

}  // namespace

absl::StatusOr<CheckpointFile> TensorFile(absl::string_view name, const std::string& path, int64_t size_bytes,
                                          const LoadOptions& options) {
  CheckpointFile file;
  file.name = std::string(name);
  file.path = path;
  file.size_bytes = size_bytes;
  if (options.record_digests) {
    WAYPOINT_ASSIGN_OR_RETURN(file.recorder, ChunkRecorder::Create(size_bytes));
  }
  return file;
}

absl::StatusOr<CheckpointFile> TextFile(absl::string_view name, const std::string& path, absl::string_view contents,
                                        const LoadOptions& options) {
  WAYPOINT_ASSIGN_OR_RETURN(CheckpointFile file,
                            TensorFile(name, path, static_cast<int64_t>(contents.size()), options));
  if (file.recorder != nullptr) {
    WAYPOINT_RETURN_IF_ERROR(file.recorder->See(0, contents));
  }
  return file;
}

absl::Status CheckListed(FileSystem& fs, const std::vector<ListedFile>& listed, const TransferOptions& transfer,
                         int share, int shares) {
  std::vector<OpenedFile> files;
  TransferProgress progress;
  for (size_t i = share; i < listed.size(); i += shares) {
    OpenedFile& opened = files.emplace_back();
    opened.listed = &listed[i];
    WAYPOINT_ASSIGN_OR_RETURN(opened.file, fs.OpenForRead(listed[i].path, {.direct = true}));
    progress.bytes_total += opened.file->size_bytes();
  }
  if (files.empty()) {
    return absl::OkStatus();
  }
  AlignedBuffer buffer(kPieceBytes);
  for (OpenedFile& opened : files) {
    WAYPOINT_ASSIGN_OR_RETURN(Md5 md5, Md5::Create());
    for (int64_t offset = 0; offset < opened.file->size_bytes(); offset += kPieceBytes) {
      if (transfer.cancelled && transfer.cancelled()) {
        return absl::CancelledError("interrupted while listed checksums were compared");
      }
      const absl::Span<char> piece =
          buffer.span().subspan(0, std::min(kPieceBytes, opened.file->size_bytes() - offset));
      WAYPOINT_RETURN_IF_ERROR(opened.file->Read(offset, piece));
      WAYPOINT_RETURN_IF_ERROR(md5.Update(piece));
      progress.bytes_done += static_cast<int64_t>(piece.size());
      if (transfer.progress) {
        transfer.progress(progress);
      }
    }
    WAYPOINT_ASSIGN_OR_RETURN(const std::string found, md5.Hex());
    if (found != opened.listed->md5) {
      return MakeError(
          ErrorKind::kChecksum,
          absl::StrCat(QuotedPath(opened.listed->path), " has MD5 ", found, ", ", QuotedPath(opened.listed->list_path),
                       " says ", opened.listed->md5,
                       "; it was damaged, changed or took another file's name: get it again, or use --verify none if "
                       "you changed it yourself"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<ConvertedFile>> DescribeFiles(FileSystem& fs, const std::vector<CheckpointFile>& files) {
  std::vector<ConvertedFile> described;
  for (const CheckpointFile& file : files) {
    ConvertedFile& one = described.emplace_back();
    one.set_name(file.name);
    one.set_size_bytes(file.size_bytes);
    if (file.recorder != nullptr) {
      WAYPOINT_ASSIGN_OR_RETURN(const auto readable, fs.OpenForRead(file.path, OpenOptions()));
      WAYPOINT_RETURN_IF_ERROR(Annotate(file.recorder->Complete(*readable), QuotedPath(file.path)));
      one.set_digest(file.recorder->Digest());
    }
  }
  return described;
}

}  // namespace waypoint
