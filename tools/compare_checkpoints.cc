#include "tools/compare_checkpoints.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "checkpoint/base/aligned_buffer.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/tensor/tensor_sink.h"
#include "tools/float_elements.h"
#include "tools/tensor_blocks.h"

namespace waypoint {
namespace {

// Tensors of sub-byte elements are read whole, as bytes.
StridedSpan SpanOf(const TensorMeta& tensor, const Box& box, char* data) {
  const int element_bytes = DTypeBytes(tensor.dtype);
  if (element_bytes == 0) {
    const int64_t bytes[] = {tensor.num_bytes()};
    return StridedSpan::Contiguous(data, 1, bytes);
  }
  return StridedSpan::Contiguous(data, element_bytes, box.sizes);
}

// Takes the blocks of `a` and reads the same boxes of `b`.
class ComparingSink : public TensorSink {
 public:
  ComparingSink(TensorSource& b, const CompareOptions& options)
      : b_(b), options_(options), blocks_(options.block_bytes) {}

  absl::Status Add(const TensorMeta& tensor, int64_t b_index) {
    // The other side may have the larger elements.
    const int element_bytes = std::max(DTypeBytes(tensor.dtype), DTypeBytes(b_.manifest()[b_index].dtype));
    WAYPOINT_RETURN_IF_ERROR(blocks_.Add(tensor, element_bytes));
    b_index_.push_back(b_index);
    const std::lock_guard<std::mutex> lock(mutex_);
    found_.emplace_back();
    return absl::OkStatus();
  }

  const Manifest& manifest() const override { return blocks_.manifest(); }
  int64_t num_blocks() const override { return Begin(options_.share + 1) - Begin(options_.share); }
  Block block(int64_t index) const override { return blocks_.blocks()[Begin(options_.share) + index]; }

  absl::Status Write(int64_t index, absl::Span<char> data) override {
    const Block& block = blocks_.blocks()[Begin(options_.share) + index];
    int64_t bytes = 0;
    for (const Piece& piece : block.pieces) {
      bytes += AlignUp(BoxBytes(TensorOfB(piece), piece.box), kPieceAlignment);
    }
    AlignedBuffer buffer = TakeBuffer();
    buffer.Reserve(bytes);
    std::vector<ReadRequest> requests;
    int64_t offset = 0;
    for (const Piece& piece : block.pieces) {
      const TensorMeta& tensor = TensorOfB(piece);
      requests.push_back({b_index_[piece.tensor], piece.box, SpanOf(tensor, piece.box, buffer.data() + offset)});
      offset += AlignUp(BoxBytes(tensor, piece.box), kPieceAlignment);
    }
    WAYPOINT_RETURN_IF_ERROR(b_.Read(requests));
    for (size_t i = 0; i < block.pieces.size(); ++i) {
      Compare(block.pieces[i], data.data() + block.pieces[i].offset_bytes, requests[i].to.data);
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    buffers_.push_back(std::move(buffer));
    return absl::OkStatus();
  }

  absl::Status Finish() override { return absl::OkStatus(); }

  ElementComparison found(int64_t index) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return found_[index];
  }

 private:
  static constexpr int64_t kPieceAlignment = 64;

  // The first block of a share.
  int64_t Begin(int share) const { return static_cast<int64_t>(blocks_.blocks().size()) * share / options_.shares; }

  const TensorMeta& TensorOfB(const Piece& piece) const { return b_.manifest()[b_index_[piece.tensor]]; }

  AlignedBuffer TakeBuffer() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (buffers_.empty()) {
      return AlignedBuffer();
    }
    AlignedBuffer buffer = std::move(buffers_.back());
    buffers_.pop_back();
    return buffer;
  }

  void Compare(const Piece& piece, const char* a, const char* b) {
    const DType a_dtype = manifest()[piece.tensor].dtype;
    const DType b_dtype = TensorOfB(piece).dtype;
    const int64_t bytes = BoxBytes(manifest()[piece.tensor], piece.box);
    if (a_dtype == b_dtype && std::memcmp(a, b, bytes) == 0) {
      return;
    }
    ElementComparison found;
    if (IsCastable(a_dtype) && IsCastable(b_dtype)) {
      found = CompareElements(a_dtype, a, b_dtype, b, piece.box.num_elements(), options_.round_to_b);
    } else {
      const int element_bytes = std::max(1, DTypeBytes(a_dtype));
      for (int64_t i = 0; i < bytes; i += element_bytes) {
        found.differing += std::memcmp(a + i, b + i, element_bytes) != 0 ? 1 : 0;
      }
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    found_[piece.tensor].differing += found.differing;
    found_[piece.tensor].max_abs_diff = std::max(found_[piece.tensor].max_abs_diff, found.max_abs_diff);
  }

  TensorSource& b_;
  const CompareOptions& options_;
  TensorBlocks blocks_;
  std::vector<int64_t> b_index_;
  mutable std::mutex mutex_;
  std::vector<ElementComparison> found_ ABSL_GUARDED_BY(mutex_);
  std::vector<AlignedBuffer> buffers_ ABSL_GUARDED_BY(mutex_);
};

std::string DescribeElements(const TensorMeta& tensor, const ElementComparison& found) {
  std::string what = absl::StrCat(
      found.differing, " of ", DTypeBytes(tensor.dtype) == 0 ? tensor.num_bytes() : tensor.num_elements(),
      DTypeBytes(tensor.dtype) == 0 ? " bytes" : " elements", found.differing == 1 ? " differs" : " differ");
  if (IsCastable(tensor.dtype)) {
    absl::StrAppend(&what, absl::StrFormat(", by %g at most", found.max_abs_diff));
  }
  return what;
}

}  // namespace

bool IsOptimizerState(const TensorMeta& tensor) { return absl::StrContains(tensor.name, '/'); }

absl::StatusOr<Comparison> CompareSources(TensorSource& a, TensorSource& b, const CompareOptions& options) {
  const auto selected = [&options](const TensorMeta& tensor) {
    return options.selected == nullptr || options.selected(tensor);
  };
  Comparison comparison;
  ComparingSink sink(b, options);
  // By name; filled in after the bytes were seen.
  std::vector<TensorDifference> by_tensor;
  std::vector<int64_t> sink_index;
  for (const TensorMeta& tensor : a.manifest().tensors()) {
    if (!selected(tensor)) {
      continue;
    }
    TensorDifference difference;
    difference.name = tensor.name;
    int64_t index = -1;
    const int64_t b_index = b.manifest().Find(tensor.name);
    if (b_index < 0) {
      difference.what = "only in the first";
    } else {
      ++comparison.tensors;
      const TensorMeta& other = b.manifest()[b_index];
      const bool cast = tensor.dtype != other.dtype;
      const bool comparable = !cast || (IsCastable(tensor.dtype) && IsCastable(other.dtype));
      if (tensor.shape != other.shape) {
        difference.what = absl::StrCat("shape ", ShapeString(tensor.shape), " against ", ShapeString(other.shape));
      } else {
        if (cast && !(options.round_to_b && comparable)) {
          difference.what = absl::StrCat(DTypeName(tensor.dtype), " against ", DTypeName(other.dtype));
        }
        if (comparable) {
          index = sink.manifest().size();
          WAYPOINT_RETURN_IF_ERROR(sink.Add(tensor, b_index));
          comparison.bytes += tensor.num_bytes();
        }
      }
    }
    by_tensor.push_back(std::move(difference));
    sink_index.push_back(index);
  }
  TransferOptions transfer = options.transfer;
  // The other half is what the sink reads beside.
  transfer.max_bytes_in_flight /= 2;
  WAYPOINT_RETURN_IF_ERROR(Transfer(a, sink, transfer).status());
  for (size_t i = 0; i < by_tensor.size(); ++i) {
    TensorDifference& difference = by_tensor[i];
    if (sink_index[i] >= 0) {
      const ElementComparison found = sink.found(sink_index[i]);
      difference.differing_elements = found.differing;
      difference.max_abs_diff = found.max_abs_diff;
      if (found.differing > 0) {
        absl::StrAppend(&difference.what, difference.what.empty() ? "" : "; ",
                        DescribeElements(sink.manifest()[sink_index[i]], found));
      }
    }
    if (!difference.what.empty()) {
      comparison.differences.push_back(std::move(difference));
    }
  }
  for (const TensorMeta& tensor : b.manifest().tensors()) {
    if (selected(tensor) && a.manifest().Find(tensor.name) < 0) {
      TensorDifference difference;
      difference.name = tensor.name;
      difference.what = "only in the second";
      comparison.differences.push_back(std::move(difference));
    }
  }
  return comparison;
}

}  // namespace waypoint
