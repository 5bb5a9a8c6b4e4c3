#ifndef CHECKPOINT_FORMAT_EXTERNAL_EQUAL_TENSORS_H_
#define CHECKPOINT_FORMAT_EXTERNAL_EQUAL_TENSORS_H_

// Whether two tensors of a source are the same, byte for byte.  Thread-safe.

#include <cstdint>

#include "absl/status/statusor.h"
#include "checkpoint/tensor/tensor_source.h"

namespace waypoint {

// Tensors `a` and `b` of the source's manifest: shape, element type and every byte.  Reads both in pieces of a megabyte
// and stops at the first that differs.  Errors: the source's.
absl::StatusOr<bool> TensorsAreEqual(TensorSource& source, int64_t a, int64_t b);

}  // namespace waypoint

#endif  // CHECKPOINT_FORMAT_EXTERNAL_EQUAL_TENSORS_H_
