#ifndef CHECKPOINT_TENSOR_BOX_H_
#define CHECKPOINT_TENSOR_BOX_H_

// Regions of tensors, in elements, and where their elements lie in memory.  Pure geometry; thread-safe.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"

namespace waypoint {

using Dims = absl::InlinedVector<int64_t, 4>;

// "[4096, 128]".
std::string ShapeString(absl::Span<const int64_t> shape);

// Product of the dimensions (1 for rank 0).  Only for shapes that were checked (CheckedNumElements).
int64_t NumElements(absl::Span<const int64_t> shape);

// A half-open region: element i lies inside iff offsets[d] <= i[d] < offsets[d] + sizes[d] for every d.
struct Box {
  Dims offsets;
  Dims sizes;

  static Box Whole(absl::Span<const int64_t> shape);

  int rank() const { return static_cast<int>(sizes.size()); }
  int64_t num_elements() const { return NumElements(sizes); }
  bool empty() const { return num_elements() == 0; }
  // "[0:4, 2:3]".
  std::string ToString() const;

  friend bool operator==(const Box& a, const Box& b) { return a.offsets == b.offsets && a.sizes == b.sizes; }
  friend bool operator!=(const Box& a, const Box& b) { return !(a == b); }
};

// Same rank, and every dimension inside.
bool Contains(absl::Span<const int64_t> shape, const Box& box);

// Empty optional when nothing is common (an empty box has nothing in common with anything).
absl::optional<Box> Intersect(const Box& a, const Box& b);

// The boxes, in order, whose elements are the row-major elements [begin, end) of a tensor; at most 2 * rank - 1.
// Each box is one run of the tensor's memory.
std::vector<Box> FlatRangeToBoxes(absl::Span<const int64_t> shape, int64_t begin, int64_t end);

// Where the elements of a box lie in memory.  Element i of the box is at data + sum(i[d] * strides[d]).  Borrowed.
struct StridedSpan {
  char* data = nullptr;
  int element_bytes = 0;
  Dims sizes;
  Dims strides;  // in bytes

  // Row-major.
  static StridedSpan Contiguous(char* data, int element_bytes, absl::Span<const int64_t> sizes);

  bool IsContiguous() const;
  // The part [start, start + size) along one dimension.
  StridedSpan Narrow(int dim, int64_t start, int64_t size) const;
  // Dimension d of the result is dimension permutation[d] of this.
  StridedSpan Transpose(absl::Span<const int> permutation) const;
};

// Cuts a box of a row-major tensor of `shape` into runs: elements that follow each other in the tensor and lie evenly,
// `stride_bytes` apart, in `span` (span.sizes == box.sizes).  Runs are as long as possible and come in ascending order of
// `begin`, the row-major index of their first element in the tensor.
void ForEachRun(absl::Span<const int64_t> shape, const Box& box, const StridedSpan& span,
                absl::FunctionRef<void(int64_t begin, int64_t elements, char* data, int64_t stride_bytes)> visit);

// Copies elements between two spans of equal sizes and element_bytes.  The memory must not overlap.
void CopyStrided(const StridedSpan& from, const StridedSpan& to);

}  // namespace waypoint

#endif  // CHECKPOINT_TENSOR_BOX_H_
