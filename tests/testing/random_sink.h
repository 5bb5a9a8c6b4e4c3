#ifndef TESTS_TESTING_RANDOM_SINK_H_
#define TESTS_TESTING_RANDOM_SINK_H_

// A TensorSink in memory that asks for random blocks: ranges of tensors in any order and any number per block, bytes
// between them that no piece covers, some in memory of its own.  Write: concurrent for different blocks.

#include <atomic>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/tensor/tensor_sink.h"
#include "tests/testing/random_geometry.h"

namespace waypoint {

class RandomSink : public TensorSink {
 public:
  // Whole-byte element types only.
  RandomSink(Manifest manifest, RandomGeometry* random) : manifest_(std::move(manifest)) {
    std::vector<Piece> pieces;
    for (int64_t tensor = 0; tensor < manifest_.size(); ++tensor) {
      const TensorMeta& meta = manifest_[tensor];
      bytes_.emplace_back(meta.num_bytes(), '\x5a');
      for (int64_t begin = 0; begin < meta.num_elements();) {
        const int64_t end = random->Pick(begin + 1, meta.num_elements());
        for (Box& box : FlatRangeToBoxes(meta.shape, begin, end)) {
          pieces.push_back({tensor, std::move(box), 0});
        }
        begin = end;
      }
    }
    std::shuffle(pieces.begin(), pieces.end(), random->engine());
    for (Piece& piece : pieces) {
      if (blocks_.empty() || random->Coin()) {
        blocks_.emplace_back();
        own_memory_.push_back(random->Pick(0, 3) == 0);
      }
      Block& block = blocks_.back();
      block.bytes = (block.bytes + 7) / 8 * 8 + 8 * random->Pick(0, 1);
      piece.offset_bytes = block.bytes;
      block.bytes += piece.box.num_elements() * DTypeBytes(manifest_[piece.tensor].dtype);
      block.pieces.push_back(std::move(piece));
    }
    for (size_t i = 0; i < blocks_.size(); ++i) {
      memory_.emplace_back(own_memory_[i] ? blocks_[i].bytes : 0);
      written_.emplace_back(0);
    }
  }

  const Manifest& manifest() const override { return manifest_; }
  int64_t num_blocks() const override { return static_cast<int64_t>(blocks_.size()); }
  Block block(int64_t index) const override { return blocks_[index]; }
  absl::Span<char> Destination(int64_t index) override { return absl::MakeSpan(memory_[index]); }

  absl::Status Write(int64_t index, absl::Span<char> data) override {
    if (writes_++ == fail_at_write) {
      return MakeError(ErrorKind::kNoSpace, "the sink is full");
    }
    const Block& block = blocks_[index];
    if (static_cast<int64_t>(data.size()) != block.bytes ||
        (own_memory_[index] && data.data() != memory_[index].data())) {
      return MakeError(ErrorKind::kUnknown, absl::StrCat("block ", index, " came in other memory"));
    }
    for (const Piece& piece : block.pieces) {
      const TensorMeta& meta = manifest_[piece.tensor];
      StridedSpan to = StridedSpan::Contiguous(bytes_[piece.tensor].data(), DTypeBytes(meta.dtype), meta.shape);
      for (int d = 0; d < piece.box.rank(); ++d) {
        to = to.Narrow(d, piece.box.offsets[d], piece.box.sizes[d]);
      }
      CopyStrided(StridedSpan::Contiguous(data.data() + piece.offset_bytes, to.element_bytes, to.sizes), to);
    }
    ++written_[index];
    return absl::OkStatus();
  }

  absl::Status Finish() override {
    ++finished;
    return absl::OkStatus();
  }

  const std::vector<char>& bytes(int64_t tensor) const { return bytes_[tensor]; }
  bool EveryBlockCameOnce() const {
    return std::all_of(written_.begin(), written_.end(), [](int times) { return times == 1; });
  }

  int finished = 0;
  int64_t fail_at_write = -1;

 private:
  const Manifest manifest_;
  std::vector<Block> blocks_;
  std::vector<bool> own_memory_;
  std::vector<std::vector<char>> memory_;
  std::vector<std::vector<char>> bytes_;
  std::vector<int> written_;  // by block
  std::atomic<int64_t> writes_{0};
};

}  // namespace waypoint

#endif  // TESTS_TESTING_RANDOM_SINK_H_
