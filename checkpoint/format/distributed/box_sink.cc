#include "checkpoint/format/distributed/box_sink.h"

#include "absl/strings/str_cat.h"
#include "checkpoint/base/aligned_buffer.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/format/distributed/records.h"

namespace waypoint {
namespace {

// A reader of a block pays for the chunks at its two ends: with 8 MiB blocks, less than 2 %.
constexpr int64_t kRankChunkBytes = int64_t{128} << 10;

}  // namespace

absl::StatusOr<std::unique_ptr<BoxSink>> BoxSink::Create(FileSystem& fs, std::string directory, std::string file_name,
                                                         const Manifest& tensors, const std::vector<PlannedBox>& boxes,
                                                         int64_t block_bytes) {
  auto sink = std::unique_ptr<BoxSink>(new BoxSink);
  Manifest entries;
  SafetensorsFilePlan file;
  file.name = std::move(file_name);
  file.metadata = {{"format", "waypoint"}};
  file.data_alignment = kDirectAlignment;  // so are rows of whole pages, which ranks that take columns read in parts
  for (const PlannedBox& box : boxes) {
    const TensorMeta& meta = tensors[box.tensor];
    if (DTypeBytes(meta.dtype) == 0) {
      return MakeError(ErrorKind::kUnsupported,
                       absl::StrCat("tensor \"", meta.name, "\" is ", DTypeName(meta.dtype),
                                    ", whose elements are no whole bytes and cannot be shared out over ranks"));
    }
    TensorMeta entry;
    entry.name = StoredBoxName(meta.name, box.box);
    entry.dtype = meta.dtype;
    entry.shape = box.box.sizes;
    WAYPOINT_RETURN_IF_ERROR(entries.Add(std::move(entry)));
    file.tensors.push_back(static_cast<int64_t>(sink->boxes_.size()));
    sink->boxes_.push_back(box);
    int64_t tensor = sink->manifest_.Find(meta.name);
    if (tensor < 0) {
      tensor = sink->manifest_.size();
      WAYPOINT_RETURN_IF_ERROR(sink->manifest_.Add(meta));
    }
    sink->tensor_of_.push_back(tensor);
  }
  WAYPOINT_ASSIGN_OR_RETURN(sink->file_, SafetensorsSink::Create(fs, std::move(directory), std::move(entries),
                                                                 {std::move(file)}, block_bytes, kRankChunkBytes));
  return sink;
}

Block BoxSink::block(int64_t index) const {
  Block block = file_->block(index);
  for (Piece& piece : block.pieces) {
    const Box& box = boxes_[piece.tensor].box;
    piece.tensor = tensor_of_[piece.tensor];
    for (int d = 0; d < box.rank(); ++d) {
      piece.box.offsets[d] += box.offsets[d];
    }
  }
  return block;
}

}  // namespace waypoint
