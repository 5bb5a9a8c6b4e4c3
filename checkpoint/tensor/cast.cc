#include "checkpoint/tensor/cast.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "Eigen/Core"
#include "checkpoint/tensor/box.h"

// The loops are written for the compiler to vectorise; these are the widths that it makes them for.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__)
#define WAYPOINT_VECTORISED \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default"), optimize("O3")))
#else
#define WAYPOINT_VECTORISED
#endif

namespace waypoint {
namespace {

constexpr int64_t kBlock = 4096;  // elements that stay in the first-level cache between two steps

// The least magnitude of a float32 that bfloat16 rounds to infinity: half a step above its largest finite value.
constexpr uint32_t kRoundsToInfinity = 0x7f7f8000;

template <typename T>
T Load(const char* from) {
  T value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

// One pass: this is what a checkpoint of float32 weights goes through to start training in bfloat16.  Returns how many
// finite elements become infinite.
WAYPOINT_VECTORISED int64_t FloatToBFloat16(const char* from, char* to, int64_t count) {
  uint32_t overflows = 0;  // as narrow as the elements, for the vectors; blocks are small
  for (int64_t i = 0; i < count; ++i) {
    const auto bits = Load<uint32_t>(from + i * 4);
    const uint32_t magnitude = bits & 0x7fffffff;
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const auto half = static_cast<uint16_t>(magnitude > 0x7f800000 ? 0x7fc0 : rounded);
    std::memcpy(to + i * 2, &half, sizeof(half));
    overflows += magnitude < 0x7f800000 && magnitude >= kRoundsToInfinity ? 1 : 0;
  }
  return overflows;
}

WAYPOINT_VECTORISED void BFloat16ToFloat(const uint16_t* from, uint32_t* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    to[i] = static_cast<uint32_t>(from[i]) << 16;
  }
}

// Branch-free round to nearest even: a float addition rounds the significand at the right bit, because the addend's
// exponent is chosen 13 above (Fabian Giesen, "Float->half variants", 2016, without code taken).
WAYPOINT_VECTORISED void HalfToFloat(const uint16_t* from, uint32_t* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t half = from[i];
    const uint32_t sign = (half & 0x8000u) << 16;
    const uint32_t magnitude = half & 0x7fffu;
    const uint32_t exponent = magnitude >> 10;
    const uint32_t normal = (magnitude << 13) + (112u << 23);
    const uint32_t special = (magnitude << 13) | 0x7f800000u;
    // A subnormal half is its significand times 2^-24, exact in float.
    const float tiny = static_cast<float>(static_cast<int32_t>(magnitude)) * 5.9604644775390625e-08f;
    uint32_t tiny_bits;
    std::memcpy(&tiny_bits, &tiny, sizeof(tiny_bits));
    const uint32_t finite = exponent == 0 ? tiny_bits : normal;
    to[i] = sign | (exponent == 31 ? special : finite);
  }
}

void FloatToHalf(const float* from, uint16_t* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    to[i] = Eigen::half_impl::float_to_half_rtne(from[i]).x;
  }
}

// Both are in the first-level cache still.
WAYPOINT_VECTORISED int64_t CountHalfOverflows(const float* from, const uint16_t* to, int64_t count) {
  const auto* bits = reinterpret_cast<const uint32_t*>(from);
  uint32_t overflows = 0;
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t is_infinite = (to[i] & 0x7fff) == 0x7c00 ? 1 : 0;
    overflows += (bits[i] & 0x7fffffff) < 0x7f800000 ? is_infinite : 0;
  }
  return overflows;
}

// Any castable type to float32, at most kBlock elements.  float64 rounds; returns how many overflow.
int64_t ToFloat(DType dtype, const char* from, float* to, int64_t count) {
  alignas(64) uint16_t halves[kBlock];
  switch (dtype) {
    case DType::kF16:
      std::memcpy(halves, from, count * 2);
      HalfToFloat(halves, reinterpret_cast<uint32_t*>(to), count);
      return 0;
    case DType::kBF16:
      std::memcpy(halves, from, count * 2);
      BFloat16ToFloat(halves, reinterpret_cast<uint32_t*>(to), count);
      return 0;
    case DType::kF64: {
      int64_t overflows = 0;
      for (int64_t i = 0; i < count; ++i) {
        double value;
        std::memcpy(&value, from + i * 8, sizeof(value));
        to[i] = static_cast<float>(value);
        overflows += std::isinf(to[i]) && std::isfinite(value) ? 1 : 0;
      }
      return overflows;
    }
    default:
      std::memcpy(to, from, count * 4);
      return 0;
  }
}

// Returns how many overflow.
int64_t FromFloat(const float* from, DType dtype, char* to, int64_t count) {
  alignas(64) uint16_t halves[kBlock];
  switch (dtype) {
    case DType::kF16:
      FloatToHalf(from, halves, count);
      std::memcpy(to, halves, count * 2);
      return CountHalfOverflows(from, halves, count);
    case DType::kBF16:
      return FloatToBFloat16(reinterpret_cast<const char*>(from), to, count);
    case DType::kF64:
      for (int64_t i = 0; i < count; ++i) {
        const double value = from[i];
        std::memcpy(to + i * 8, &value, sizeof(value));
      }
      return 0;
    default:
      std::memcpy(to, from, count * 4);
      return 0;
  }
}

}  // namespace

int64_t CastElements(DType from_dtype, const char* from, DType to_dtype, char* to, int64_t count) {
  alignas(64) float values[kBlock];
  const int64_t from_bytes = DTypeBytes(from_dtype);
  const int64_t to_bytes = DTypeBytes(to_dtype);
  if (from_dtype == to_dtype) {
    // Through float32, a float64 would lose bits and a NaN its payload.
    std::memcpy(to, from, count * from_bytes);
    return 0;
  }
  int64_t overflows = 0;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t size = std::min(kBlock, count - begin);
    if (from_dtype == DType::kF32 && to_dtype == DType::kBF16) {
      overflows += FloatToBFloat16(from + begin * 4, to + begin * 2, size);
      continue;
    }
    overflows += ToFloat(from_dtype, from + begin * from_bytes, values, size);
    overflows += FromFloat(values, to_dtype, to + begin * to_bytes, size);
  }
  return overflows;
}

void ElementCast::Apply(const char* elements, char* results, int64_t to_stride, int64_t count) {
  const int from_bytes = DTypeBytes(from);
  const int to_bytes = DTypeBytes(to);
  if (to_stride == to_bytes) {
    overflows += CastElements(from, elements, to, results, count);
    return;
  }
  char together[kBlock * sizeof(double)];
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t size = std::min(kBlock, count - begin);
    overflows += CastElements(from, elements + begin * from_bytes, to, together, size);
    StridedSpan apart;
    apart.data = results + begin * to_stride;
    apart.element_bytes = to_bytes;
    apart.sizes = {size};
    apart.strides = {to_stride};
    CopyStrided(StridedSpan::Contiguous(together, to_bytes, {size}), apart);
  }
}

}  // namespace waypoint
