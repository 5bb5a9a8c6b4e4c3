#include "tools/float_elements.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace waypoint {
namespace {

template <typename T>
T Load(const char* data) {
  T value;
  std::memcpy(&value, data, sizeof(T));
  return value;
}

double HalfToDouble(uint16_t bits) {
  const int exponent = bits >> 10 & 0x1f;
  const int mantissa = bits & 0x3ff;
  double magnitude = 0;
  if (exponent == 0x1f) {
    magnitude = mantissa == 0 ? std::numeric_limits<double>::infinity() : std::numeric_limits<double>::quiet_NaN();
  } else if (exponent == 0) {
    magnitude = std::ldexp(mantissa, -24);
  } else {
    magnitude = std::ldexp(mantissa + 1024, exponent - 25);
  }
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

double BrainToDouble(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

// mantissa_bits without the hidden one; exponents of the smallest normal and of the largest number.
double RoundTo(double value, int mantissa_bits, int min_exponent, int max_exponent) {
  if (!std::isfinite(value) || value == 0) {
    return value;
  }
  const int exponent = std::max(std::ilogb(value), min_exponent);
  const double rounded =
      std::ldexp(std::nearbyint(std::ldexp(value, mantissa_bits - exponent)), exponent - mantissa_bits);
  return std::fabs(rounded) >= std::ldexp(1.0, max_exponent + 1)
             ? std::copysign(std::numeric_limits<double>::infinity(), value)
             : rounded;
}

}  // namespace

double ElementToDouble(DType dtype, const char* data) {
  switch (dtype) {
    case DType::kF16:
      return HalfToDouble(Load<uint16_t>(data));
    case DType::kBF16:
      return BrainToDouble(Load<uint16_t>(data));
    case DType::kF32:
      return Load<float>(data);
    case DType::kF64:
      return Load<double>(data);
    default:
      return std::numeric_limits<double>::quiet_NaN();
  }
}

double RoundToDType(double value, DType dtype) {
  switch (dtype) {
    case DType::kF16:
      return RoundTo(RoundToDType(value, DType::kF32), 10, -14, 15);
    case DType::kBF16:
      return RoundTo(RoundToDType(value, DType::kF32), 7, -126, 127);
    case DType::kF32:
      return RoundTo(value, 23, -126, 127);
    default:
      return value;
  }
}

ElementComparison CompareElements(DType a_dtype, const char* a, DType b_dtype, const char* b, int64_t count,
                                  bool round_to_b) {
  ElementComparison comparison;
  const int a_bytes = DTypeBytes(a_dtype);
  const int b_bytes = DTypeBytes(b_dtype);
  for (int64_t i = 0; i < count; ++i) {
    const char* a_element = a + i * a_bytes;
    const char* b_element = b + i * b_bytes;
    if (a_dtype == b_dtype && std::memcmp(a_element, b_element, a_bytes) == 0) {
      continue;
    }
    double x = ElementToDouble(a_dtype, a_element);
    const double y = ElementToDouble(b_dtype, b_element);
    if (round_to_b && a_dtype != b_dtype) {
      x = RoundToDType(x, b_dtype);
    }
    if ((x == y && std::signbit(x) == std::signbit(y)) || (std::isnan(x) && std::isnan(y))) {
      continue;
    }
    ++comparison.differing;
    const double distance =
        std::isfinite(x) && std::isfinite(y) ? std::fabs(x - y) : std::numeric_limits<double>::infinity();
    comparison.max_abs_diff = std::max(comparison.max_abs_diff, distance);
  }
  return comparison;
}

}  // namespace waypoint
