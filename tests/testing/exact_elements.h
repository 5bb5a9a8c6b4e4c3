#ifndef TESTS_TESTING_EXACT_ELEMENTS_H_
#define TESTS_TESTING_EXACT_ELEMENTS_H_

// Small whole numbers in each of the castable types, without the library's own conversions: every type of them holds
// the numbers from -256 to 256 exactly, so that a chain of casts changes nothing.  Thread-safe.

#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "checkpoint/base/dtype.h"

namespace waypoint {

inline constexpr DType kCastableTypes[] = {DType::kF16, DType::kBF16, DType::kF32, DType::kF64};

inline void EncodeExact(DType dtype, int value, char* to) {
  if (dtype == DType::kF64) {
    const double wide = value;
    std::memcpy(to, &wide, sizeof(wide));
    return;
  }
  const float number = static_cast<float>(value);
  uint32_t bits;
  std::memcpy(&bits, &number, sizeof(bits));
  if (dtype == DType::kF32) {
    std::memcpy(to, &bits, sizeof(bits));
    return;
  }
  const uint32_t exponent = bits >> 23 & 0xff;
  const uint16_t half = dtype == DType::kBF16 ? bits >> 16
                        : value == 0          ? 0
                                              : (bits >> 16 & 0x8000) | (exponent - 112) << 10 | (bits >> 13 & 0x3ff);
  std::memcpy(to, &half, sizeof(half));
}

inline std::vector<char> ExactBytes(DType dtype, const std::vector<int>& values) {
  const int bytes = DTypeBytes(dtype);
  std::vector<char> out(values.size() * bytes);
  for (size_t i = 0; i < values.size(); ++i) {
    EncodeExact(dtype, values[i], out.data() + i * bytes);
  }
  return out;
}

}  // namespace waypoint

#endif  // TESTS_TESTING_EXACT_ELEMENTS_H_
