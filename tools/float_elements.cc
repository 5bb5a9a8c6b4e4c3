#include "tools/float_elements.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

namespace waypoint {
namespace {

template <typename T>
T Load(const char* data) {
  T value;
  std::memcpy(&value, data, sizeof(T));
  return value;
}

double FromBits(uint64_t bits) {
  double value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

double HalfToDouble(uint16_t bits) {
  const uint64_t sign = static_cast<uint64_t>(bits & 0x8000) << 48;
  const uint64_t exponent = bits >> 10 & 0x1f;
  const uint64_t mantissa = bits & 0x3ff;
  if (exponent == 0) {
    const double magnitude = std::ldexp(static_cast<double>(mantissa), -24);
    return sign != 0 ? -magnitude : magnitude;
  }
  // Infinity and NaN keep an exponent of ones.
  const uint64_t wide_exponent = exponent == 0x1f ? 0x7ff : exponent + 1023 - 15;
  return FromBits(sign | wide_exponent << 52 | mantissa << 42);
}

double BrainToDouble(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

// mantissa_bits without the hidden one; exponents of the smallest normal and of the largest number.
double RoundTo(double value, int mantissa_bits, int min_exponent, int max_exponent) {
  uint64_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const int exponent = static_cast<int>(bits >> 52 & 0x7ff) - 1023;
  if (exponent == 1024 || value == 0) {
    return value;
  }
  double rounded = 0;
  if (exponent >= min_exponent) {
    // Half of the last place less one, and one more when the last place is odd; a carry moves into the exponent.
    const int dropped = 52 - mantissa_bits;
    const uint64_t half_less_one = (uint64_t{1} << (dropped - 1)) - 1;
    bits += half_less_one + (bits >> dropped & 1);
    rounded = FromBits(bits >> dropped << dropped);
  } else {
    const int shift = mantissa_bits - min_exponent;
    rounded = std::ldexp(std::nearbyint(std::ldexp(value, shift)), -shift);
  }
  return std::fabs(rounded) >= FromBits(static_cast<uint64_t>(max_exponent + 1 + 1023) << 52)
             ? std::copysign(std::numeric_limits<double>::infinity(), value)
             : rounded;
}

template <DType dtype>
double ToDouble(const char* data) {
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

template <DType dtype>
double Round(double value) {
  switch (dtype) {
    case DType::kF16:
      return RoundTo(static_cast<float>(value), 10, -14, 15);
    case DType::kBF16:
      return RoundTo(static_cast<float>(value), 7, -126, 127);
    case DType::kF32:
      return static_cast<float>(value);
    default:
      return value;
  }
}

// Calls f with the type as a template argument.
template <typename Function>
auto WithDType(DType dtype, const Function& f) {
  switch (dtype) {
    case DType::kF16:
      return f(std::integral_constant<DType, DType::kF16>());
    case DType::kBF16:
      return f(std::integral_constant<DType, DType::kBF16>());
    case DType::kF32:
      return f(std::integral_constant<DType, DType::kF32>());
    case DType::kF64:
      return f(std::integral_constant<DType, DType::kF64>());
    default:
      return f(std::integral_constant<DType, DType::kInvalid>());
  }
}

template <DType a_dtype, DType b_dtype>
ElementComparison Compare(const char* a, const char* b, int64_t count, bool round_to_b) {
  ElementComparison comparison;
  const int a_bytes = DTypeBytes(a_dtype);
  const int b_bytes = DTypeBytes(b_dtype);
  for (int64_t i = 0; i < count; ++i) {
    double x = ToDouble<a_dtype>(a + i * a_bytes);
    const double y = ToDouble<b_dtype>(b + i * b_bytes);
    if (round_to_b && a_dtype != b_dtype) {
      x = Round<b_dtype>(x);
    }
    if ((x == y && std::signbit(x) == std::signbit(y)) || (std::isnan(x) && std::isnan(y))) {
      if (a_dtype != b_dtype || std::memcmp(a + i * a_bytes, b + i * b_bytes, a_bytes) == 0) {
        continue;
      }
    }
    ++comparison.differing;
    const double distance =
        std::isfinite(x) && std::isfinite(y) ? std::fabs(x - y) : std::numeric_limits<double>::infinity();
    comparison.max_abs_diff = std::max(comparison.max_abs_diff, distance);
  }
  return comparison;
}

}  // namespace

double ElementToDouble(DType dtype, const char* data) {
  return WithDType(dtype, [data](auto type) { return ToDouble<type()>(data); });
}

double RoundToDType(double value, DType dtype) {
  return WithDType(dtype, [value](auto type) { return Round<type()>(value); });
}

ElementComparison CompareElements(DType a_dtype, const char* a, DType b_dtype, const char* b, int64_t count,
                                  bool round_to_b) {
  return WithDType(a_dtype, [&](auto a_type) {
    return WithDType(b_dtype, [&](auto b_type) { return Compare<a_type(), b_type()>(a, b, count, round_to_b); });
  });
}

}  // namespace waypoint
