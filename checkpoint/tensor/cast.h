#ifndef CHECKPOINT_TENSOR_CAST_H_
#define CHECKPOINT_TENSOR_CAST_H_

// Conversion between float16, bfloat16, float32 and float64.  Thread-safe.

#include <atomic>
#include <cstdint>

#include "checkpoint/base/dtype.h"

namespace waypoint {

// Converts `count` elements from one array to another (no overlap).  Rounds to nearest even as libtorch does:
// narrowing from float64 goes through float32, NaN becomes the quiet NaN 0x7fc0 of bfloat16, float16 overflows to
// infinity.  Equal types are copied.  Both types must be IsCastable.  Alignment is not needed.
// Returns how many elements were finite and became infinite.
int64_t CastElements(DType from_dtype, const char* from, DType to_dtype, char* to, int64_t count);

// A conversion that a source makes while it copies elements to where they belong.  Several threads may use one.
struct ElementCast {
  DType from = DType::kF32;
  DType to = DType::kF32;
  // Elements so far that were finite and became infinite.
  std::atomic<int64_t> overflows{0};

  ElementCast(DType from_dtype, DType to_dtype) : from(from_dtype), to(to_dtype) {}

  // `to_stride`: bytes from one result to the next, not below the bytes of one.
  void Apply(const char* elements, char* results, int64_t to_stride, int64_t count);
};

}  // namespace waypoint

#endif  // CHECKPOINT_TENSOR_CAST_H_
