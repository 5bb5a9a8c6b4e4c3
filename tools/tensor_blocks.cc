#include "tools/tensor_blocks.h"

#include <algorithm>
#include <utility>

#include "checkpoint/base/aligned_buffer.h"
#include "checkpoint/base/status_macros.h"

namespace waypoint {
namespace {

constexpr int64_t kPieceAlignment = 64;

void CutBox(const Box& box, int element_bytes, int64_t limit_bytes, int dim, std::vector<Box>* boxes) {
  if (dim == box.rank() || box.num_elements() * element_bytes <= limit_bytes) {
    boxes->push_back(box);
    return;
  }
  const int64_t row_bytes = box.num_elements() / box.sizes[dim] * element_bytes;
  const int64_t rows_per_box = std::max<int64_t>(1, limit_bytes / row_bytes);
  for (int64_t row = 0; row < box.sizes[dim]; row += rows_per_box) {
    Box part = box;
    part.offsets[dim] += row;
    part.sizes[dim] = std::min(rows_per_box, box.sizes[dim] - row);
    CutBox(part, element_bytes, limit_bytes, dim + 1, boxes);
  }
}

}  // namespace

int64_t BoxBytes(const TensorMeta& tensor, const Box& box) { return box.num_elements() * DTypeBits(tensor.dtype) / 8; }

absl::Status TensorBlocks::Add(const TensorMeta& tensor, int element_bytes) {
  TensorMeta whole = tensor;
  whole.boxes.clear();
  const int64_t index = manifest_.size();
  WAYPOINT_RETURN_IF_ERROR(manifest_.Add(whole));
  if (whole.num_elements() == 0) {
    return absl::OkStatus();
  }
  std::vector<Box> boxes;
  if (DTypeBytes(whole.dtype) == 0) {
    boxes.push_back(Box::Whole(whole.shape));
  } else {
    CutBox(Box::Whole(whole.shape), element_bytes == 0 ? DTypeBytes(whole.dtype) : element_bytes, block_bytes_, 0,
           &boxes);
  }
  for (Box& box : boxes) {
    Append(index, std::move(box));
  }
  return absl::OkStatus();
}

void TensorBlocks::Append(int64_t tensor, Box box) {
  const int64_t bytes = BoxBytes(manifest_[tensor], box);
  if (blocks_.empty() || blocks_.back().bytes + bytes > block_bytes_) {
    blocks_.emplace_back();
  }
  Block& block = blocks_.back();
  block.pieces.push_back({tensor, std::move(box), block.bytes});
  block.bytes = AlignUp(block.bytes + bytes, kPieceAlignment);
}

}  // namespace waypoint
