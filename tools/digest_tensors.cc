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
  explicit DigestSink(TensorBlocks blocks) : blocks_(std::move(blocks)) {
    for (int64_t i = 0; i < blocks_.manifest().size(); ++i) {
      digests_.push_back(std::make_unique<Xxh3Stream>());
    }
  }

  const Manifest& manifest() const override { return blocks_.manifest(); }
  int64_t num_blocks() const override { return static_cast<int64_t>(blocks_.blocks().size()); }
  Block block(int64_t index) const override { return blocks_.blocks()[index]; }

  absl::Status Write(int64_t index, absl::Span<char> data) override {
    for (const Piece& piece : blocks_.blocks()[index].pieces) {
      digests_[piece.tensor]->Update(
          data.subspan(piece.offset_bytes, BoxBytes(blocks_.manifest()[piece.tensor], piece.box)));
    }
    return absl::OkStatus();
  }

  absl::Status Finish() override { return absl::OkStatus(); }

  std::vector<std::string> Hex() const {
    std::vector<std::string> hex;
    for (const auto& digest : digests_) {
      hex.push_back(DigestHex(digest->Digest()));
    }
    return hex;
  }

 private:
  const TensorBlocks blocks_;
  std::vector<std::unique_ptr<Xxh3Stream>> digests_;
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
  return sink.Hex();
}

}  // namespace waypoint
