#ifndef TOOLS_FLOAT_ELEMENTS_H_
#define TOOLS_FLOAT_ELEMENTS_H_

// Elements of floating types as numbers, to say how far two checkpoints are apart and whether a cast was right.
// Deliberately shares no code with the casts that it checks.  Thread-safe.

#include <cstdint>

#include "checkpoint/base/dtype.h"

namespace waypoint {

// The element at `data` (any alignment).  Only for types that IsCastable.
double ElementToDouble(DType dtype, const char* data);

// The nearest value of the type, ties to even; infinite beyond its range.  From float64 to 16 bits by way of float32,
// as libtorch rounds.
double RoundToDType(double value, DType dtype);

struct ElementComparison {
  int64_t differing = 0;
  // Infinity when only one side is a number.
  double max_abs_diff = 0;
};

// Compares `count` elements as numbers of their own types; with `round_to_b`, those of a after RoundToDType.  NaN
// equals NaN; 0.0 and -0.0 differ.  Only for types that IsCastable.
ElementComparison CompareElements(DType a_dtype, const char* a, DType b_dtype, const char* b, int64_t count,
                                  bool round_to_b);

}  // namespace waypoint

#endif  // TOOLS_FLOAT_ELEMENTS_H_
