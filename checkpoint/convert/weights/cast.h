#ifndef CHECKPOINT_CONVERT_WEIGHTS_CAST_H_
#define CHECKPOINT_CONVERT_WEIGHTS_CAST_H_

// Conversion between float16, bfloat16, float32 and float64.  Thread-safe.

#include <cstdint>

#include "checkpoint/base/dtype.h"

namespace waypoint {

// Converts `count` elements from one array to another (no overlap).  Rounds to nearest even as libtorch does:
// narrowing from float64 goes through float32, NaN becomes the quiet NaN 0x7fc0 of bfloat16, float16 overflows to
// infinity.  Equal types are copied.  Both types must be IsCastable.  Alignment is not needed.
// Returns how many elements were finite and became infinite.
int64_t CastElements(DType from_dtype, const char* from, DType to_dtype, char* to, int64_t count);

}  // namespace waypoint

#endif  // CHECKPOINT_CONVERT_WEIGHTS_CAST_H_
