#ifndef TOOLS_TENSOR_BLOCKS_H_
#define TOOLS_TENSOR_BLOCKS_H_

// Whole tensors cut into blocks for a sink that looks at bytes and keeps none.  One thread builds, then thread-safe.

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "checkpoint/tensor/manifest.h"
#include "checkpoint/tensor/tensor_sink.h"

namespace waypoint {

// Bytes of a box of the tensor; all of it for elements that are not whole bytes.
int64_t BoxBytes(const TensorMeta& tensor, const Box& box);

class TensorBlocks {
 public:
  explicit TensorBlocks(int64_t block_bytes) : block_bytes_(block_bytes) {}

  // Boxes are cut so that they hold at most `block_bytes` of elements of `element_bytes` (0: the tensor's own); single
  // elements, and tensors whose elements are not whole bytes, may be larger.  Errors: as Manifest::Add.
  absl::Status Add(const TensorMeta& tensor, int element_bytes = 0);

  const Manifest& manifest() const { return manifest_; }
  // Boxes of one tensor come in row-major order, tensors in the order of Add.
  const std::vector<Block>& blocks() const { return blocks_; }

 private:
  void Append(int64_t tensor, Box box);

  const int64_t block_bytes_;
  Manifest manifest_;
  std::vector<Block> blocks_;
};

}  // namespace waypoint

#endif  // TOOLS_TENSOR_BLOCKS_H_
