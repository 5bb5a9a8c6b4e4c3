#include "checkpoint/convert/weights/cast.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "Eigen/Core"

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

WAYPOINT_VECTORISED void FloatToBFloat16(const uint32_t* from, uint16_t* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t bits = from[i];
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    to[i] = static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
  }
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

// Of a float that is `infinity` as 16 bits.  Both are in the first-level cache still.
WAYPOINT_VECTORISED int64_t CountOverflows(const float* from, const uint16_t* to, uint16_t infinity, int64_t count) {
  const auto* bits = reinterpret_cast<const uint32_t*>(from);
  uint32_t overflows = 0;
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t is_infinite = (to[i] & 0x7fff) == infinity ? 1 : 0;
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
      return CountOverflows(from, halves, 0x7c00, count);
    case DType::kBF16:
      FloatToBFloat16(reinterpret_cast<const uint32_t*>(from), halves, count);
      std::memcpy(to, halves, count * 2);
      return CountOverflows(from, halves, 0x7f80, count);
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
    overflows += ToFloat(from_dtype, from + begin * from_bytes, values, size);
    overflows += FromFloat(values, to_dtype, to + begin * to_bytes, size);
  }
  return overflows;
}

}  // namespace waypoint
