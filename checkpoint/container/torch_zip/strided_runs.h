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

// The elements of each dimension of stride 0 are the same: makes box and span (of equal sizes) those of the first of
// them, so that each element is read once.
void WithoutRepeats(absl::Span<const int64_t> strides, Box* box, StridedSpan* span);
// Copies the first of them to the others, all of the same size in memory.
void FillRepeats(absl::Span<const int64_t> strides, const StridedSpan& span);

// How many elements of such a tensor follow each other in the storage, at least, wherever one is read.
int64_t LeastRunElements(absl::Span<const int64_t> shape, absl::Span<const int64_t> strides);

// Does a tensor of this shape touch each of the elements between its first and its last?
bool IsDense(absl::Span<const int64_t> shape, absl::Span<const int64_t> strides);

}  // namespace waypoint

#endif  // CHECKPOINT_CONTAINER_TORCH_ZIP_STRIDED_RUNS_H_
