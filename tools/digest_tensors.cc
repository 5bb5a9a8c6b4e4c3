#include "tools/digest_tensors.h"

#include <memory>

#include "checkpoint/base/digest.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/tensor/tensor_sink.h"
#include "tools/tensor_blocks.h"

namespace waypoint {
namespace {

class DigestSink : public TensorSink {
 public:
  explicit DigestSink(TensorBlocks blocks) : blocks_(std::move(blocks)) { hex_.resize(blocks_.manifest().size()); }

  const Manifest& manifest() const override { return blocks_.manifest(); }
  int64_t num_blocks() const override { return static_cast<int64_t>(blocks_.blocks().size()); }
  Block block(int64_t index) const override { return blocks_.blocks()[index]; }

  absl::Status Write(int64_t index, absl::Span<char> data) override {
    for (const Piece& piece : blocks_.blocks()[index].pieces) {
      Continue(piece.tensor);
      stream_->Update(data.subspan(piece.offset_bytes, BoxBytes(blocks_.manifest()[piece.tensor], piece.box)));
    }
    return absl::OkStatus();
  }

  absl::Status Finish() override {
    Continue(-1);
    // Tensors without elements have no blocks.
    for (std::string& hex : hex_) {
      hex = hex.empty() ? DigestHex(Xxh3Stream().Digest()) : hex;
    }
    return absl::OkStatus();
  }

  std::vector<std::string> TakeHex() { return std::move(hex_); }

 private:
  // One stream at a time, for a file may name very many tensors: blocks come in order.
  void Continue(int64_t tensor) {
    if (tensor == tensor_) {
      return;
    }
    if (stream_ != nullptr) {
      hex_[tensor_] = DigestHex(stream_->Digest());
    }
    stream_ = tensor < 0 ? nullptr : std::make_unique<Xxh3Stream>();
    tensor_ = tensor;
  }

  const TensorBlocks blocks_;
  std::vector<std::string> hex_;
  int64_t tensor_ = -1;
  std::unique_ptr<Xxh3Stream> stream_;
};

}  // namespace

absl::StatusOr<std::vector<std::string>> DigestTensors(TensorSource& source, const TransferOptions& transfer,
                                                       int64_t block_bytes) {
  TensorBlocks blocks(block_bytes);
  for (const TensorMeta& tensor : source.manifest().tensors()) {
    WAYPOINT_RETURN_IF_ERROR(blocks.Add(tensor));
  }
  DigestSink sink(std::move(blocks));
  TransferOptions in_order = transfer;
  in_order.threads = 1;
  WAYPOINT_RETURN_IF_ERROR(Transfer(source, sink, in_order).status());
  return sink.TakeHex();
}

}  // namespace waypoint
