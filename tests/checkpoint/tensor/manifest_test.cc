#include "checkpoint/tensor/manifest.h"

#include "gmock/gmock.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {
namespace {

using ::testing::HasSubstr;

TEST(ManifestTest, KeepsTheOrderAndFindsByName) {
  Manifest manifest;
  ASSERT_OK(manifest.Add({"b", DType::kF32, {2}, {}}));
  ASSERT_OK(manifest.Add({"a", DType::kF4, {2, 3}, {}}));

  EXPECT_EQ(manifest.Find("a"), 1);
  EXPECT_EQ(manifest.Find("c"), -1);
  EXPECT_EQ(manifest[0].name, "b");
  EXPECT_EQ(manifest.total_bytes(), 8 + 3);
}

TEST(ManifestTest, BoxesThatAreHeldCount) {
  Manifest manifest;
  Box box = Box::Whole(Dims{4, 2});
  box.sizes[0] = 3;
  ASSERT_OK(manifest.Add({"a", DType::kBF16, {100, 2}, {box}}));

  EXPECT_EQ(manifest.total_bytes(), 12);
}

TEST(ManifestTest, TheMainTypeHasTheMostBytes) {
  EXPECT_EQ(MainDType({}), DType::kInvalid);
  EXPECT_EQ(MainDType({{"a", DType::kF32, {2}, {}}, {"b", DType::kBF16, {3}, {}}, {"c", DType::kBF16, {2}, {}}}),
            DType::kBF16);
  // In any order.
  EXPECT_EQ(MainDType({{"a", DType::kF32, {2}, {}}, {"b", DType::kBF16, {4}, {}}}), DType::kBF16);
  EXPECT_EQ(MainDType({{"b", DType::kBF16, {4}, {}}, {"a", DType::kF32, {2}, {}}}), DType::kBF16);
}

TEST(ManifestTest, RefusesWhatCannotBe) {
  Manifest manifest;
  ASSERT_OK(manifest.Add({"a", DType::kF32, {2}, {}}));

  EXPECT_THAT(manifest.Add({"a", DType::kF32, {2}, {}}), IsKind(ErrorKind::kDupKey, HasSubstr("\"a\"")));
  EXPECT_THAT(manifest.Add({"b", DType::kF32, {INT64_MAX, 2}, {}}), IsKind(ErrorKind::kOverflow, HasSubstr("\"b\"")));
  EXPECT_THAT(manifest.Add({"c", DType::kF4, {3}, {}}), IsKind(ErrorKind::kSizeMismatch));
  EXPECT_EQ(manifest.size(), 1);
}

}  // namespace
}  // namespace waypoint
