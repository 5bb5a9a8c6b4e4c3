#ifndef CHECKPOINT_TENSOR_TENSOR_SINK_H_
#define CHECKPOINT_TENSOR_TENSOR_SINK_H_

// Something that tensors go to: a checkpoint that is written, a live model that is filled.
//
// A sink says beforehand, block by block and in the order that suits it, which boxes it wants and how they lie in the
// block; Transfer fills blocks from a source and hands them over.  A sink on disk makes a block a range of one file,
// a live model makes it a part of a parameter's own memory, so that neither needs another copy.
//
// num_blocks, block and Destination: thread-safe.  Write: concurrent for different blocks.  Finish: once, after all.

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "checkpoint/tensor/box.h"
#include "checkpoint/tensor/manifest.h"

namespace waypoint {

struct Piece {
  int64_t tensor = 0;       // index into the sink's manifest
  Box box;                  // in the tensor's global coordinates
  int64_t offset_bytes = 0;  // of the box's first element in the block; the box lies row-major
};

struct Block {
  int64_t bytes = 0;
  // Disjoint, by ascending offset.  They cover the block, but for bytes that the sink fills itself.
  std::vector<Piece> pieces;
};

class TensorSink {
 public:
  virtual ~TensorSink() = default;

  virtual const Manifest& manifest() const = 0;

  virtual int64_t num_blocks() const = 0;
  virtual Block block(int64_t index) const = 0;

  // Memory of the sink's own that the block is to be filled in; empty when Transfer shall bring the memory (aligned to
  // kDirectAlignment).
  virtual absl::Span<char> Destination(int64_t index) { return {}; }

  // Upper bound of the memory of the sink's own for each block that is being filled or written, where blocks come about
  // in order, so that the caller can account for it.
  virtual int64_t ScratchBytes() const { return 0; }

  // Takes a filled block.  `data` may be changed by the sink (it adds what no piece covers) and is free for reuse afterwards.
  virtual absl::Status Write(int64_t index, absl::Span<char> data) = 0;

  // Completes what Write began (tail of files, digests, sync).  Nothing is visible to others before it returned OK.
  virtual absl::Status Finish() = 0;
};

}  // namespace waypoint

#endif  // CHECKPOINT_TENSOR_TENSOR_SINK_H_
