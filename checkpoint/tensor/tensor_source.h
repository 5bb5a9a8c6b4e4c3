#ifndef CHECKPOINT_TENSOR_TENSOR_SOURCE_H_
#define CHECKPOINT_TENSOR_TENSOR_SOURCE_H_

// Something that tensors can be read from: a checkpoint on disk, a live model, a conversion of another source.
//
// Reading is by box and into memory of the caller's: the destination is a strided span, so that a concatenation, a
// transpose or a split of another tensor is read straight into place and no source allocates what it returns.
// Requests come in batches, so that a source on disk can merge neighbours into few large reads.
//
// Thread-safe.

#include <cstdint>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "checkpoint/tensor/box.h"
#include "checkpoint/tensor/cast.h"
#include "checkpoint/tensor/manifest.h"

namespace waypoint {

struct ReadRequest {
  int64_t tensor = 0;  // index into the source's manifest
  Box box;             // inside the tensor's shape (and inside one of its boxes, where it has any)
  // to.sizes == box.sizes, to.element_bytes == bytes of the dtype, or of what it is cast to.
  // Tensors of sub-byte elements are read whole only: `to` then is one dimension of bytes.
  StridedSpan to;
  // Converts the elements on the way; borrowed.  Only for tensors that the source CanCast; cast->from is their dtype.
  ElementCast* cast = nullptr;
};

// Calls back with batches of requests.
using RequestList = absl::FunctionRef<void(absl::FunctionRef<void(absl::Span<const ReadRequest>)> visit)>;

struct ReadStats {
  // Read from storage, including what was read along.
  int64_t bytes_read = 0;
  // Given out without the check that the storage has a digest for: checking them would have meant to read too much else
  // (LoadOptions::max_over_read).
  int64_t bytes_unchecked = 0;
};

class TensorSource {
 public:
  virtual ~TensorSource() = default;

  virtual const Manifest& manifest() const = 0;

  // Fills every destination, or fails; after a failure the destinations hold anything.
  virtual absl::Status Read(absl::Span<const ReadRequest> requests) = 0;

  // All that the next Reads will ask for together, in whatever batches, until it is called again: lets a source on disk
  // read what lies between two of them once.  A hint: any other Read works too.  `to` points nowhere.  A source may go
  // through the list more than once, or not at all.
  virtual void Expect(RequestList requests) {}

  // May requests for this tensor have a cast?  Saves whoever converts the memory and the copy of the tensor before the
  // conversion.
  virtual bool CanCast(int64_t tensor) const { return false; }

  // So far.  Zeros where nothing is counted.
  virtual ReadStats stats() const { return {}; }

  // Upper bound of the memory that a Read of `block_bytes` in all needs beyond the destinations, so that the caller
  // can account for it.
  virtual int64_t ScratchBytes(int64_t block_bytes) const { return 0; }
};

}  // namespace waypoint

#endif  // CHECKPOINT_TENSOR_TENSOR_SOURCE_H_
