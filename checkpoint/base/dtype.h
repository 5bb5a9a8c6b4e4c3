#ifndef CHECKPOINT_BASE_DTYPE_H_
#define CHECKPOINT_BASE_DTYPE_H_

// Element types of tensors in files: all of safetensors', whether or not this libtorch knows them.
//
// Some elements are smaller than a byte (F4, F6_*): sizes are therefore given in bits, and only whole tensors of
// these types can be addressed.  Thread-safe.

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace waypoint {

// Values appear in manifest.pb: never renumber.
enum class DType : uint8_t {
  kInvalid = 0,
  kBool = 1,
  kU8 = 2,
  kI8 = 3,
  kU16 = 4,
  kI16 = 5,
  kU32 = 6,
  kI32 = 7,
  kU64 = 8,
  kI64 = 9,
  kF16 = 10,
  kBF16 = 11,
  kF32 = 12,
  kF64 = 13,
  kC64 = 14,
  kF8E4M3 = 15,
  kF8E5M2 = 16,
  kF8E8M0 = 17,
  kF8E4M3FNUZ = 18,
  kF8E5M2FNUZ = 19,
  kF6E2M3 = 20,
  kF6E3M2 = 21,
  kF4 = 22,
};

// Bits of one element; 0 for kInvalid.
int DTypeBits(DType dtype);

// Bytes of one element; 0 for kInvalid and for elements that are not whole bytes.
int DTypeBytes(DType dtype);

// safetensors' name: "BF16", "F8_E4M3", ...; "INVALID".
absl::string_view DTypeName(DType dtype);

// The inverse of DTypeName; kInvalid for any other text.
DType DTypeFromName(absl::string_view name);

// torch's name as config.json and command lines have it ("bfloat16"); empty where torch has none.
absl::string_view DTypeTorchName(DType dtype);
DType DTypeFromTorchName(absl::string_view name);

// float16, bfloat16, float32, float64: what weights may be and what casts convert between.
bool IsCastable(DType dtype);

// Bytes of a row-major tensor.  E_OVERFLOW when elements or bits do not fit 63 bits, E_SIZE_MISMATCH when the bits are
// not whole bytes.  Messages name the shape; the caller adds the tensor.
absl::StatusOr<int64_t> TensorBytes(DType dtype, absl::Span<const int64_t> shape);

}  // namespace waypoint

#endif  // CHECKPOINT_BASE_DTYPE_H_
