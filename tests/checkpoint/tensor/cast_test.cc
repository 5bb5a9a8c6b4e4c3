#include "checkpoint/tensor/cast.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "Eigen/Core"
#include "gtest/gtest.h"
#include "tests/testing/exact_elements.h"

namespace waypoint {
namespace {

template <typename To, typename From>
std::vector<To> CastAll(DType from_dtype, const std::vector<From>& from, DType to_dtype) {
  std::vector<To> to(from.size());
  CastElements(from_dtype, reinterpret_cast<const char*>(from.data()), to_dtype, reinterpret_cast<char*>(to.data()),
               static_cast<int64_t>(from.size()));
  return to;
}

uint32_t Bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

float FromBits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

std::vector<uint16_t> AllHalves() {
  std::vector<uint16_t> halves(65536);
  for (size_t i = 0; i < halves.size(); ++i) {
    halves[i] = static_cast<uint16_t>(i);
  }
  return halves;
}

// The value of a half or bfloat16 by the definition of the format.
double Value(DType dtype, uint16_t bits) {
  const int significand_bits = dtype == DType::kF16 ? 10 : 7;
  const int bias = dtype == DType::kF16 ? 15 : 127;
  const int exponent = (bits & 0x7fff) >> significand_bits;
  const int significand = bits & ((1 << significand_bits) - 1);
  const double sign = bits >> 15 ? -1 : 1;
  if (exponent == (0x7fff >> significand_bits)) {
    return significand != 0 ? std::nan("") : sign * std::numeric_limits<double>::infinity();
  }
  return exponent == 0 ? sign * std::ldexp(significand, 1 - bias - significand_bits)
                       : sign * std::ldexp(significand + (1 << significand_bits), exponent - bias - significand_bits);
}

class HalfCastTest : public testing::TestWithParam<DType> {};

TEST_P(HalfCastTest, EveryValueWidensExactly) {
  const std::vector<uint16_t> halves = AllHalves();
  const std::vector<float> floats = CastAll<float>(GetParam(), halves, DType::kF32);
  const std::vector<double> doubles = CastAll<double>(GetParam(), halves, DType::kF64);
  for (size_t i = 0; i < halves.size(); ++i) {
    const double wanted = Value(GetParam(), halves[i]);
    ASSERT_EQ(std::isnan(floats[i]), std::isnan(wanted)) << i;
    ASSERT_EQ(std::isnan(doubles[i]), std::isnan(wanted)) << i;
    if (!std::isnan(wanted)) {
      ASSERT_EQ(static_cast<double>(floats[i]), wanted) << i;
      ASSERT_EQ(std::signbit(floats[i]), std::signbit(wanted)) << i;
      ASSERT_EQ(doubles[i], wanted) << i;
      ASSERT_EQ(std::signbit(doubles[i]), std::signbit(wanted)) << i;
    }
  }
}

TEST_P(HalfCastTest, EveryValueComesBack) {
  const std::vector<uint16_t> halves = AllHalves();
  for (const DType wide : {DType::kF32, DType::kF64}) {
    std::vector<uint16_t> again;
    if (wide == DType::kF32) {
      again = CastAll<uint16_t>(wide, CastAll<float>(GetParam(), halves, wide), GetParam());
    } else {
      again = CastAll<uint16_t>(wide, CastAll<double>(GetParam(), halves, wide), GetParam());
    }
    for (size_t i = 0; i < halves.size(); ++i) {
      if (std::isnan(Value(GetParam(), halves[i]))) {
        ASSERT_TRUE(std::isnan(Value(GetParam(), again[i]))) << i;
      } else {
        ASSERT_EQ(again[i], halves[i]);
      }
    }
  }
}

// Between each value and the next: the middle goes to the even one, what is beside it to the nearer one.
TEST_P(HalfCastTest, TiesGoToEven) {
  const uint16_t infinity = GetParam() == DType::kF16 ? 0x7c00 : 0x7f80;
  std::vector<float> floats;
  std::vector<uint16_t> wanted;
  for (uint16_t low = 0; low + 1 < infinity; ++low) {
    const double below = Value(GetParam(), low);
    const double above = Value(GetParam(), low + 1);
    const auto middle = static_cast<float>((below + above) / 2);
    if (middle != (below + above) / 2) {
      continue;  // float has no number in the middle of two subnormals of bfloat16
    }
    const uint16_t even = low % 2 == 0 ? low : low + 1;
    for (const float sign : {1.f, -1.f}) {
      const uint16_t sign_bit = sign < 0 ? 0x8000 : 0;
      floats.insert(floats.end(), {sign * middle, sign * std::nextafter(middle, 0.f),
                                   sign * std::nextafter(middle, std::numeric_limits<float>::infinity())});
      wanted.push_back(even | sign_bit);
      wanted.push_back(low | sign_bit);
      wanted.push_back((low + 1) | sign_bit);
    }
  }
  ASSERT_GT(floats.size(), 100'000u);

  const std::vector<uint16_t> found = CastAll<uint16_t>(DType::kF32, floats, GetParam());

  for (size_t i = 0; i < floats.size(); ++i) {
    ASSERT_EQ(found[i], wanted[i]) << std::hexfloat << floats[i];
  }
}

INSTANTIATE_TEST_SUITE_P(Types, HalfCastTest, testing::Values(DType::kF16, DType::kBF16),
                         [](const testing::TestParamInfo<DType>& info) { return std::string(DTypeName(info.param)); });

TEST(CastTest, LargeAndSpecialValues) {
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> values = {0.f,
                                     -0.f,
                                     inf,
                                     -inf,
                                     65504.f,
                                     65519.996f,
                                     65520.f,
                                     -65520.f,
                                     std::numeric_limits<float>::max(),
                                     std::numeric_limits<float>::denorm_min(),
                                     std::ldexp(1.f, -25),
                                     std::nextafter(std::ldexp(1.f, -25), 1.f)};
  EXPECT_EQ(CastAll<uint16_t>(DType::kF32, values, DType::kF16),
            (std::vector<uint16_t>{0, 0x8000, 0x7c00, 0xfc00, 0x7bff, 0x7bff, 0x7c00, 0xfc00, 0x7c00, 0, 0, 1}));
  EXPECT_EQ(
      CastAll<uint16_t>(DType::kF32, values, DType::kBF16),
      (std::vector<uint16_t>{0, 0x8000, 0x7f80, 0xff80, 0x4780, 0x4780, 0x4780, 0xc780, 0x7f80, 0, 0x3300, 0x3300}));
}

TEST(CastTest, EveryNotANumberStaysOne) {
  std::vector<float> nans;
  for (const uint32_t bits : {0x7f800001u, 0x7f801000u, 0x7fc00000u, 0x7fffffffu, 0xff800001u, 0xffffffffu}) {
    nans.push_back(FromBits(bits));
  }
  for (const uint16_t bits : CastAll<uint16_t>(DType::kF32, nans, DType::kBF16)) {
    EXPECT_EQ(bits, 0x7fc0);
  }
  for (const uint16_t bits : CastAll<uint16_t>(DType::kF32, nans, DType::kF16)) {
    EXPECT_TRUE(std::isnan(Value(DType::kF16, bits))) << bits;
  }
  for (const double value : CastAll<double>(DType::kF32, nans, DType::kF64)) {
    EXPECT_TRUE(std::isnan(value));
  }
  for (const float value : CastAll<float>(DType::kF64, CastAll<double>(DType::kF32, nans, DType::kF64), DType::kF32)) {
    EXPECT_TRUE(std::isnan(value));
  }
}

TEST(CastTest, RandomFloatsRoundAsEigenDoes) {
  std::mt19937 engine(31);
  std::vector<float> floats(300'000);
  for (float& value : floats) {
    value = FromBits(engine());
  }
  const std::vector<uint16_t> halves = CastAll<uint16_t>(DType::kF32, floats, DType::kF16);
  const std::vector<uint16_t> brains = CastAll<uint16_t>(DType::kF32, floats, DType::kBF16);
  for (size_t i = 0; i < floats.size(); ++i) {
    if (!std::isnan(floats[i])) {
      ASSERT_EQ(halves[i], Eigen::half_impl::float_to_half_rtne(floats[i]).x) << floats[i];
      ASSERT_EQ(brains[i], Eigen::bfloat16_impl::float_to_bfloat16_rtne<false>(floats[i]).value) << floats[i];
    }
  }
}

TEST(CastTest, Float64GoesThroughFloat32) {
  // The double lies above the middle of two halves by less than a float can tell: rounding once would go up.
  const double middle = 1 + std::ldexp(1.0, -11);
  const std::vector<double> values = {middle + std::ldexp(1.0, -40), 1e300, -1e300, 1e-300, 0.1};

  EXPECT_EQ(CastAll<uint16_t>(DType::kF64, values, DType::kF16),
            (std::vector<uint16_t>{0x3c00, 0x7c00, 0xfc00, 0, 0x2e66}));
  EXPECT_EQ(Bits(CastAll<float>(DType::kF64, values, DType::kF32)[4]), Bits(0.1f));
}

TEST(CastTest, SameTypeCopiesEveryBit) {
  const std::vector<double> doubles = {0.1, 1e300, std::ldexp(1.0, -1074)};
  EXPECT_EQ(CastAll<double>(DType::kF64, doubles, DType::kF64), doubles);
  for (const DType dtype : {DType::kF16, DType::kBF16}) {
    EXPECT_EQ(CastAll<uint16_t>(dtype, AllHalves(), dtype), AllHalves());
  }
}

int64_t Overflows(DType from_dtype, const std::vector<char>& from, DType to_dtype) {
  const int64_t count = static_cast<int64_t>(from.size()) / DTypeBytes(from_dtype);
  std::vector<char> to(count * DTypeBytes(to_dtype));
  return CastElements(from_dtype, from.data(), to_dtype, to.data(), count);
}

template <typename T>
std::vector<char> BytesOf(const std::vector<T>& values) {
  const auto* bytes = reinterpret_cast<const char*>(values.data());
  return std::vector<char>(bytes, bytes + values.size() * sizeof(T));
}

TEST(CastTest, CountsFiniteElementsThatBecomeInfinite) {
  const float infinity = std::numeric_limits<float>::infinity();
  const float largest = std::numeric_limits<float>::max();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  // 65519 is the last that rounds to the largest half, 65504.
  const std::vector<char> floats = BytesOf<float>({65519, 65520, -1e30f, infinity, -infinity, nan, 0, largest});
  EXPECT_EQ(Overflows(DType::kF32, floats, DType::kF16), 3);
  EXPECT_EQ(Overflows(DType::kF32, floats, DType::kBF16), 1);
  EXPECT_EQ(Overflows(DType::kF32, floats, DType::kF64), 0);
  EXPECT_EQ(Overflows(DType::kF32, floats, DType::kF32), 0);
  const std::vector<char> doubles = BytesOf<double>({1e300, -1e300, 1e5, 1, infinity, nan});
  EXPECT_EQ(Overflows(DType::kF64, doubles, DType::kF32), 2);
  EXPECT_EQ(Overflows(DType::kF64, doubles, DType::kF16), 3);
  const std::vector<char> brains = BytesOf<uint16_t>({0x7f7f, 0x7f80, 0x7fc0, 0x3f80});
  EXPECT_EQ(Overflows(DType::kBF16, brains, DType::kF16), 1);
  // The first that bfloat16 rounds up, and the one before it.
  EXPECT_EQ(Overflows(DType::kF32, BytesOf<uint32_t>({0x7f7f8000, 0xff7f8000, 0x7f7f7fff}), DType::kBF16), 2);
  // In every block of many.
  std::vector<float> many(20000, 1.0f);
  for (size_t i = 0; i < many.size(); i += 1000) {
    many[i] = 1e6f;
  }
  EXPECT_EQ(Overflows(DType::kF32, BytesOf(many), DType::kF16), 20);
}

// Counts around the size of a block and of a vector register, at odd addresses.
TEST(CastTest, AnyCountAndAddress) {
  for (const DType from : kCastableTypes) {
    for (const DType to : kCastableTypes) {
      for (const int count : {0, 1, 7, 16, 33, 4095, 4096, 4097, 9001}) {
        std::vector<int> values(count);
        for (int i = 0; i < count; ++i) {
          values[i] = i % 513 - 256;
        }
        const std::vector<char> wanted = ExactBytes(to, values);
        std::vector<char> input = ExactBytes(from, values);
        input.insert(input.begin(), '\x5a');
        std::vector<char> output(wanted.size() + 2, '\x5a');

        CastElements(from, input.data() + 1, to, output.data() + 1, count);

        ASSERT_EQ(std::vector<char>(output.begin() + 1, output.end() - 1), wanted)
            << DTypeName(from) << " to " << DTypeName(to) << ", " << count;
        ASSERT_EQ(output.front(), '\x5a');
        ASSERT_EQ(output.back(), '\x5a');
      }
    }
  }
}

}  // namespace
}  // namespace waypoint
