#ifndef CHECKPOINT_CONTAINER_TORCH_ZIP_STRIDED_RUNS_H_
#define CHECKPOINT_CONTAINER_TORCH_ZIP_STRIDED_RUNS_H_

// Where the elements of a box of a strided tensor lie in its storage.  Pure geometry; thread-safe.

#include <cstdint>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "checkpoint/tensor/box.h"

namespace waypoint {

// Cuts the box of a tensor with `strides` (in elements, none negative) into runs: elements that follow each other in
// the storage and lie evenly, `stride_bytes` apart, in `span` (span.sizes == box.sizes).  `begin` is relative to the
// tensor's first element.  Runs are as long as possible; a transposed tensor has long ones too.  A visit that fails
// ends it.
absl::Status ForEachStridedRun(
    absl::Span<const int64_t> strides, const Box& box, const StridedSpan& span,
    absl::FunctionRef<absl::Status(int64_t begin, int64_t elements, char* data, int64_t stride_bytes)> visit);

// Does a tensor of this shape touch each of the elements between its first and its last?
bool IsDense(absl::Span<const int64_t> shape, absl::Span<const int64_t> strides);

}  // namespace waypoint

#endif  // CHECKPOINT_CONTAINER_TORCH_ZIP_STRIDED_RUNS_H_
