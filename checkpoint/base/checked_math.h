#ifndef CHECKPOINT_BASE_CHECKED_MATH_H_
#define CHECKPOINT_BASE_CHECKED_MATH_H_

// Arithmetic on numbers that come from files.  Every product, sum and narrowing of such a number goes through
// here; the functions return false (and leave *result unspecified) when the exact result does not fit.
// Thread-safe.

#include <cstdint>

#include "absl/types/span.h"

namespace waypoint {

[[nodiscard]] inline bool CheckedAdd(int64_t a, int64_t b, int64_t* result) {
  return !__builtin_add_overflow(a, b, result);
}

[[nodiscard]] inline bool CheckedSub(int64_t a, int64_t b, int64_t* result) {
  return !__builtin_sub_overflow(a, b, result);
}

[[nodiscard]] inline bool CheckedMul(int64_t a, int64_t b, int64_t* result) {
  return !__builtin_mul_overflow(a, b, result);
}

// Unsigned 64-bit file fields must fit a signed one before anything else is done with them.
[[nodiscard]] inline bool CheckedToInt64(uint64_t value, int64_t* result) {
  if (value > static_cast<uint64_t>(INT64_MAX)) {
    return false;
  }
  *result = static_cast<int64_t>(value);
  return true;
}

// Number of elements of a shape.  False when a dimension is negative or when the product of max(d, 1) over all
// dimensions does not fit: a zero dimension must not hide a neighbour whose strides would overflow.
[[nodiscard]] inline bool CheckedNumElements(absl::Span<const int64_t> shape, int64_t* result) {
  int64_t strides = 1;
  bool empty = false;
  for (const int64_t dim : shape) {
    if (dim < 0 || !CheckedMul(strides, dim == 0 ? 1 : dim, &strides)) {
      return false;
    }
    empty = empty || dim == 0;
  }
  *result = empty ? 0 : strides;
  return true;
}

}  // namespace waypoint

#endif  // CHECKPOINT_BASE_CHECKED_MATH_H_
