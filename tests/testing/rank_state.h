#ifndef TESTS_TESTING_RANK_STATE_H_
#define TESTS_TESTING_RANK_STATE_H_

// One rank's part of a state under some layout: as a source that refuses to read what the rank does not hold, and as a
// sink in memory of its own.

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/tensor/tensor_sink.h"
#include "checkpoint/tensor/tensor_source.h"

namespace waypoint {

// A rank's boxes of a tensor, number `index` of the state; none: the rank does not hold it.
using Layout = std::vector<Box> (*)(const TensorMeta& tensor, int64_t index, int rank, int world_size);

inline std::vector<Box> Replicated(const TensorMeta& tensor, int64_t, int, int) { return {Box::Whole(tensor.shape)}; }

inline std::vector<Box> CutAlong(const TensorMeta& tensor, int dim, int rank, int world_size) {
  Box box = Box::Whole(tensor.shape);
  if (tensor.shape.empty()) {
    return {box};
  }
  const int64_t size = tensor.shape[dim];
  box.offsets[dim] = size * rank / world_size;
  box.sizes[dim] = size * (rank + 1) / world_size - box.offsets[dim];
  return {box};
}
inline std::vector<Box> Rows(const TensorMeta& tensor, int64_t, int rank, int world_size) {
  return CutAlong(tensor, 0, rank, world_size);
}
inline std::vector<Box> Columns(const TensorMeta& tensor, int64_t, int rank, int world_size) {
  return CutAlong(tensor, static_cast<int>(tensor.shape.size()) - 1, rank, world_size);
}
// Flat ranges over all ranks, as ZeRO cuts.
inline std::vector<Box> Flat(const TensorMeta& tensor, int64_t, int rank, int world_size) {
  const int64_t elements = tensor.num_elements();
  return FlatRangeToBoxes(tensor.shape, elements * rank / world_size, elements * (rank + 1) / world_size);
}
// Tensor by tensor, as pipeline parallelism cuts.
inline std::vector<Box> Stages(const TensorMeta& tensor, int64_t index, int rank, int world_size) {
  return index % world_size == rank ? std::vector<Box>{Box::Whole(tensor.shape)} : std::vector<Box>();
}
// Weights by columns over pairs of ranks and replicated over the pairs, optimizer state flat over the latter.
inline std::vector<Box> TensorParallelZero(const TensorMeta& tensor, int64_t index, int rank, int world_size) {
  const int tp = world_size % 2 == 0 ? 2 : 1;
  const Box held = Columns(tensor, index, rank % tp, tp)[0];
  if (tensor.name.find('/') == std::string::npos) {
    return {held};
  }
  const int64_t elements = held.num_elements();
  const int64_t dp = world_size / tp;
  std::vector<Box> boxes = FlatRangeToBoxes(held.sizes, elements * (rank / tp) / dp, elements * (rank / tp + 1) / dp);
  for (Box& box : boxes) {
    for (int d = 0; d < box.rank(); ++d) {
      box.offsets[d] += held.offsets[d];
    }
  }
  return boxes;
}

struct NamedLayout {
  const char* name;
  Layout layout;

  friend std::ostream& operator<<(std::ostream& out, const NamedLayout& named) { return out << named.name; }
};
inline constexpr NamedLayout kLayouts[] = {{"replicated", Replicated}, {"rows", Rows},
                                           {"columns", Columns},       {"flat", Flat},
                                           {"stages", Stages},         {"tp_zero", TensorParallelZero}};

inline Manifest RankManifest(const Manifest& state, Layout layout, int rank, int world_size) {
  Manifest manifest;
  for (int64_t i = 0; i < state.size(); ++i) {
    TensorMeta meta = state[i];
    meta.boxes.clear();
    for (Box& box : layout(meta, i, rank, world_size)) {
      if (!box.empty()) {
        meta.boxes.push_back(std::move(box));
      }
    }
    if (!meta.boxes.empty() || (meta.num_elements() == 0 && rank == 0)) {
      if (!manifest.Add(std::move(meta)).ok()) {
        std::abort();
      }
    }
  }
  return manifest;
}

// `state` holds whole tensors and outlives this.  Thread-safe.
class RankSource : public TensorSource {
 public:
  RankSource(TensorSource& state, Layout layout, int rank, int world_size)
      : state_(state), manifest_(RankManifest(state.manifest(), layout, rank, world_size)) {}

  const Manifest& manifest() const override { return manifest_; }
  int64_t ScratchBytes(int64_t block_bytes) const override { return state_.ScratchBytes(block_bytes); }

  absl::Status Read(absl::Span<const ReadRequest> requests) override {
    std::vector<ReadRequest> whole(requests.begin(), requests.end());
    for (ReadRequest& request : whole) {
      const TensorMeta& meta = manifest_[request.tensor];
      bool held = meta.boxes.empty();
      for (const Box& box : meta.boxes) {
        held = held || Intersect(box, request.box) == request.box;
      }
      if (!held) {
        return MakeError(ErrorKind::kRequest, absl::StrCat("\"", meta.name, "\" ", request.box.ToString(),
                                                           " is not in one box of this rank"));
      }
      request.tensor = state_.manifest().Find(meta.name);
    }
    return state_.Read(whole);
  }

 private:
  TensorSource& state_;
  const Manifest manifest_;
};

// Boxes back to back in memory, which begins as 0xEE bytes.
class RankSink : public TensorSink {
 public:
  RankSink(const Manifest& state, Layout layout, int rank, int world_size, int64_t block_bytes = int64_t{8} << 20)
      : manifest_(RankManifest(state, layout, rank, world_size)) {
    int64_t bytes = 0;
    for (int64_t tensor = 0; tensor < manifest_.size(); ++tensor) {
      const TensorMeta& meta = manifest_[tensor];
      for (const Box& box : meta.boxes) {
        int64_t begin = 0;
        const int64_t elements = box.num_elements();
        while (begin < elements) {
          if (blocks_.empty() || blocks_.back().bytes >= block_bytes) {
            blocks_.emplace_back();
            begins_.push_back(bytes);
          }
          Block& block = blocks_.back();
          const int element_bytes = DTypeBytes(meta.dtype);
          const int64_t count =
              std::max<int64_t>(1, std::min(elements - begin, (block_bytes - block.bytes) / element_bytes));
          for (Box& piece : FlatRangeToBoxes(box.sizes, begin, begin + count)) {
            const int64_t piece_bytes = piece.num_elements() * element_bytes;
            for (int d = 0; d < piece.rank(); ++d) {
              piece.offsets[d] += box.offsets[d];
            }
            block.pieces.push_back({tensor, std::move(piece), block.bytes});
            block.bytes += piece_bytes;
            bytes += piece_bytes;
          }
          begin += count;
        }
      }
    }
    memory_.assign(bytes, '\xEE');
  }

  const Manifest& manifest() const override { return manifest_; }
  int64_t num_blocks() const override { return static_cast<int64_t>(blocks_.size()); }
  Block block(int64_t index) const override { return blocks_[index]; }
  absl::Span<char> Destination(int64_t index) override {
    return absl::MakeSpan(memory_).subspan(begins_[index], blocks_[index].bytes);
  }
  absl::Status Write(int64_t, absl::Span<char>) override { return absl::OkStatus(); }
  absl::Status Finish() override { return absl::OkStatus(); }

  int64_t bytes() const { return static_cast<int64_t>(memory_.size()); }

  // What is in memory, against what the state has there.  Empty: equal.
  std::string Difference(TensorSource& state) const {
    std::vector<char> expected;
    for (size_t i = 0; i < blocks_.size(); ++i) {
      for (const Piece& piece : blocks_[i].pieces) {
        const TensorMeta& meta = manifest_[piece.tensor];
        const int element_bytes = DTypeBytes(meta.dtype);
        expected.resize(piece.box.num_elements() * element_bytes);
        ReadRequest request;
        request.tensor = state.manifest().Find(meta.name);
        request.box = piece.box;
        request.to = StridedSpan::Contiguous(expected.data(), element_bytes, piece.box.sizes);
        const absl::Status status = state.Read({request});
        if (!status.ok()) {
          return status.ToString();
        }
        if (std::memcmp(expected.data(), memory_.data() + begins_[i] + piece.offset_bytes, expected.size()) != 0) {
          return absl::StrCat("\"", meta.name, "\" ", piece.box.ToString(), " differs");
        }
      }
    }
    return "";
  }

 private:
  const Manifest manifest_;
  std::vector<Block> blocks_;
  std::vector<int64_t> begins_;
  std::vector<char> memory_;
};

}  // namespace waypoint

#endif  // TESTS_TESTING_RANK_STATE_H_
