#ifndef CHECKPOINT_FORMAT_EXTERNAL_EQUAL_TENSORS_H_
#define CHECKPOINT_FORMAT_EXTERNAL_EQUAL_TENSORS_H_

// Whether two tensors of a source are the same, byte for byte, and whether that tells anything.  Thread-safe.

#include <cstdint>

#include "absl/status/statusor.h"
#include "checkpoint/tensor/tensor_source.h"

namespace waypoint {

// Tensors `a` and `b` of the source's manifest: shape, element type and every byte.  Reads both in pieces of a megabyte
// and stops at the first that differs.  Errors: the source's.
absl::StatusOr<bool> TensorsAreEqual(TensorSource& source, int64_t a, int64_t b);

// Is every element the same, as of a tensor that was never filled?  Two such tensors may be equal by accident.  True
// for one without elements.  Reads in pieces of a megabyte up to the first element that differs.  Errors: the source's.
absl::StatusOr<bool> HasOneValue(TensorSource& source, int64_t tensor);

}  // namespace waypoint

#endif  // CHECKPOINT_FORMAT_EXTERNAL_EQUAL_TENSORS_H_
