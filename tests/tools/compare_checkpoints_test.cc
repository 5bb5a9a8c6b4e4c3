#include "tools/compare_checkpoints.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/memory_source.h"
#include "tests/testing/status_matchers.h"
#include "tools/float_elements.h"

namespace waypoint {
namespace {

using ::testing::HasSubstr;

std::vector<float> Ramp(int64_t count) {
  std::vector<float> values(count);
  for (int64_t i = 0; i < count; ++i) {
    values[i] = static_cast<float>(i) * 0.37f - 5.0f;
  }
  return values;
}

uint16_t BrainBits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

TEST(CompareSourcesTest, EqualSourcesHaveNoDifference) {
  MemorySource a, b;
  for (MemorySource* source : {&a, &b}) {
    source->Add("x", DType::kF32, {4, 3}, Ramp(12));
    source->Add("scalar", DType::kI64, {}, std::vector<int64_t>{7});
    source->Add("empty", DType::kBF16, {0, 5}, std::vector<uint16_t>{});
    source->Add("nibbles", DType::kF4, {3, 2}, std::vector<uint8_t>{1, 2, 3});
  }

  ASSERT_OK_AND_ASSIGN(const Comparison comparison, CompareSources(a, b, {}));

  EXPECT_TRUE(comparison.equal());
  EXPECT_EQ(comparison.tensors, 4);
  EXPECT_EQ(comparison.bytes, 48 + 8 + 3);
}

// Blocks so small that tensors are cut along every dimension, elements included.
TEST(CompareSourcesTest, FindsOneElementWhereverBlocksAreCut) {
  for (const int64_t block_bytes : {4, 8, 20, 64, 1000}) {
    for (const int64_t changed : {0, 7, 59}) {
      MemorySource a, b;
      std::vector<float> values = Ramp(60);
      a.Add("first", DType::kF32, {2}, Ramp(2));
      b.Add("first", DType::kF32, {2}, Ramp(2));
      a.Add("x", DType::kF32, {3, 4, 5}, values);
      values[changed] += 0.5f;
      b.Add("x", DType::kF32, {3, 4, 5}, values);
      CompareOptions options;
      options.block_bytes = block_bytes;

      ASSERT_OK_AND_ASSIGN(const Comparison comparison, CompareSources(a, b, options));

      ASSERT_EQ(comparison.differences.size(), 1u) << block_bytes;
      EXPECT_EQ(comparison.differences[0].name, "x");
      EXPECT_EQ(comparison.differences[0].differing_elements, 1);
      EXPECT_NEAR(comparison.differences[0].max_abs_diff, 0.5, 1e-5);
      EXPECT_THAT(comparison.differences[0].what, HasSubstr("1 of 60 elements differs, by 0.5"));
    }
  }
}

TEST(CompareSourcesTest, EveryElementIsInOneShare) {
  for (const int shares : {1, 2, 3, 7}) {
    MemorySource a, b;
    std::vector<float> values = Ramp(60);
    a.Add("x", DType::kF32, {3, 4, 5}, values);
    for (float& value : values) {
      value += 1.0f;
    }
    b.Add("x", DType::kF32, {3, 4, 5}, values);
    CompareOptions options;
    options.block_bytes = 20;
    options.shares = shares;
    int64_t found = 0;

    for (options.share = 0; options.share < shares; ++options.share) {
      ASSERT_OK_AND_ASSIGN(const Comparison comparison, CompareSources(a, b, options));
      ASSERT_EQ(comparison.differences.size(), 1u);
      EXPECT_LT(comparison.differences[0].differing_elements, 60 / shares + 6);
      found += comparison.differences[0].differing_elements;
    }

    EXPECT_EQ(found, 60);
  }
}

TEST(CompareSourcesTest, NamesShapesAndDtypesAreDifferences) {
  MemorySource a, b;
  a.Add("only_a", DType::kF32, {1}, Ramp(1));
  a.Add("shape", DType::kF32, {2, 3}, Ramp(6));
  b.Add("shape", DType::kF32, {3, 2}, Ramp(6));
  a.Add("dtype", DType::kF32, {1}, std::vector<float>{1.0f});
  b.Add("dtype", DType::kBF16, {1}, std::vector<uint16_t>{BrainBits(1.0f)});
  b.Add("only_b", DType::kF32, {1}, Ramp(1));

  ASSERT_OK_AND_ASSIGN(const Comparison comparison, CompareSources(a, b, {}));

  ASSERT_EQ(comparison.differences.size(), 4u);
  EXPECT_EQ(comparison.differences[0].what, "only in the first");
  EXPECT_EQ(comparison.differences[1].what, "shape [2, 3] against [3, 2]");
  EXPECT_EQ(comparison.differences[2].what, "F32 against BF16");
  EXPECT_EQ(comparison.differences[2].differing_elements, 0);
  EXPECT_EQ(comparison.differences[3].what, "only in the second");
}

TEST(CompareSourcesTest, TensorsThatAreNotSelectedAreNotLookedAt) {
  MemorySource a, b;
  a.Add("p", DType::kF32, {1}, Ramp(1));
  a.Add("p/exp_avg", DType::kF32, {1}, Ramp(1));
  b.Add("p", DType::kF32, {1}, Ramp(1));
  CompareOptions options;
  options.selected = [](const TensorMeta& tensor) { return !IsOptimizerState(tensor); };

  ASSERT_OK_AND_ASSIGN(const Comparison comparison, CompareSources(a, b, options));

  EXPECT_TRUE(comparison.equal());
}

TEST(CompareSourcesTest, ARightCastIsEqualAndAWrongBitIsNot) {
  std::mt19937 random(5);
  std::vector<float> values(1000);
  for (float& value : values) {
    const uint32_t bits = random();
    std::memcpy(&value, &bits, sizeof(value));
    value = std::isfinite(value) ? value : 0.0f;
  }
  std::vector<uint16_t> cast(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    cast[i] = BrainBits(values[i]);
  }
  MemorySource a, right, wrong;
  a.Add("x", DType::kF32, {1000}, values);
  right.Add("x", DType::kBF16, {1000}, cast);
  cast[500] ^= 1;
  wrong.Add("x", DType::kBF16, {1000}, cast);
  CompareOptions options;
  options.round_to_b = true;

  ASSERT_OK_AND_ASSIGN(const Comparison good, CompareSources(a, right, options));
  ASSERT_OK_AND_ASSIGN(const Comparison bad, CompareSources(a, wrong, options));

  EXPECT_TRUE(good.equal()) << good.differences[0].what;
  ASSERT_EQ(bad.differences.size(), 1u);
  EXPECT_EQ(bad.differences[0].differing_elements, 1);
}

TEST(RoundToDTypeTest, TiesGoToEvenAndTheRangeEnds) {
  EXPECT_EQ(RoundToDType(1.0 + 1.0 / 256, DType::kBF16), 1.0);
  EXPECT_EQ(RoundToDType(1.0 + 3.0 / 256, DType::kBF16), 1.0 + 4.0 / 256);
  EXPECT_EQ(RoundToDType(65519.0, DType::kF16), 65504.0);
  EXPECT_EQ(RoundToDType(65520.0, DType::kF16), std::numeric_limits<double>::infinity());
  EXPECT_EQ(RoundToDType(std::ldexp(1.0, -25), DType::kF16), 0.0);
  EXPECT_EQ(RoundToDType(std::ldexp(3.0, -25), DType::kF16), std::ldexp(4.0, -25));
}

TEST(CompareElementsTest, NanEqualsNanAcrossTypesAndZerosDiffer) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float a[] = {nan, 0.0f, nan};
  const double b[] = {-nan, -0.0, 1.0};

  const ElementComparison found = CompareElements(DType::kF32, reinterpret_cast<const char*>(a), DType::kF64,
                                                  reinterpret_cast<const char*>(b), 3, false);

  EXPECT_EQ(found.differing, 2);
  EXPECT_TRUE(std::isinf(found.max_abs_diff));
}

TEST(CompareElementsTest, OneTypeIsComparedAsBytes) {
  const uint16_t a[] = {0x7e00, 0x8000, 0x3c00};
  const uint16_t b[] = {0x7e01, 0x8000, 0x3c00};

  const ElementComparison found = CompareElements(DType::kF16, reinterpret_cast<const char*>(a), DType::kF16,
                                                  reinterpret_cast<const char*>(b), 3, true);

  EXPECT_EQ(found.differing, 1);
}

TEST(ElementToDoubleTest, EveryHalfIsWhatItsFieldsSay) {
  for (int bits = 0; bits < 0x10000; ++bits) {
    const uint16_t half = static_cast<uint16_t>(bits);
    const int exponent = half >> 10 & 0x1f;
    const double fraction = (half & 0x3ff) / 1024.0;
    const double magnitude = exponent == 0 ? std::ldexp(fraction, -14) : std::ldexp(1 + fraction, exponent - 15);
    const double found = ElementToDouble(DType::kF16, reinterpret_cast<const char*>(&half));
    if (exponent == 0x1f) {
      ASSERT_EQ(std::isinf(found), (half & 0x3ff) == 0) << bits;
      ASSERT_EQ(std::isnan(found), (half & 0x3ff) != 0) << bits;
    } else {
      ASSERT_EQ(found, (half & 0x8000) != 0 ? -magnitude : magnitude) << bits;
      // And it is its own rounding.
      ASSERT_EQ(RoundToDType(found, DType::kF16), found) << bits;
    }
  }
}

}  // namespace
}  // namespace waypoint
