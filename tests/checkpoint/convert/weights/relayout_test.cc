// Laws that every re-layout keeps; a new one adds a line to the list at the end.

#include "checkpoint/convert/weights/weight_rules.h"
#include "gmock/gmock.h"
#include "tests/testing/memory_source.h"
#include "tests/testing/random_geometry.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {
namespace {

struct RelayoutCase {
  std::string name;
  RelayoutPtr relayout;
  std::vector<Dims> external;
  Dims native;
};

std::vector<float> Counted(int64_t elements, float first) {
  std::vector<float> values(elements);
  std::iota(values.begin(), values.end(), first);
  return values;
}

std::vector<float> ReadWhole(TensorSource& source, int64_t tensor) {
  const Dims shape = source.manifest()[tensor].shape;
  std::vector<float> values(NumElements(shape));
  EXPECT_OK(source.Read(
      {{tensor, Box::Whole(shape), StridedSpan::Contiguous(reinterpret_cast<char*>(values.data()), 4, shape)}}));
  return values;
}

class RelayoutTest : public testing::TestWithParam<RelayoutCase> {
 protected:
  void SetUp() override {
    float next = 0;
    for (const Dims& shape : GetParam().external) {
      const int64_t index = external_.manifest().size();
      external_.Add(absl::StrCat("e", index), DType::kF32, shape, Counted(NumElements(shape), next));
      next += static_cast<float>(NumElements(shape));
      refs_.push_back(Ref(external_.manifest()[index], index));
    }
  }

  MemorySource external_;
  std::vector<Expr> refs_;
};

TEST_P(RelayoutTest, ExportOfAnImportIsTheTensorsThemselves) {
  ASSERT_OK_AND_ASSIGN(const Expr native, GetParam().relayout->Import(refs_));
  EXPECT_EQ(native->shape(), GetParam().native);

  ASSERT_OK_AND_ASSIGN(const std::vector<Expr> again, GetParam().relayout->Export(native));

  ASSERT_EQ(again.size(), refs_.size());
  for (size_t i = 0; i < again.size(); ++i) {
    EXPECT_EQ(again[i], refs_[i]) << again[i]->ToString();
  }
}

TEST_P(RelayoutTest, ImportOfAnExportIsTheTensorItself) {
  TensorMeta meta;
  meta.name = "native";
  meta.dtype = DType::kBF16;
  meta.shape = GetParam().native;
  ASSERT_OK_AND_ASSIGN(const std::vector<Expr> external, GetParam().relayout->Export(Ref(meta, 0)));
  ASSERT_EQ(external.size(), GetParam().external.size());
  for (size_t i = 0; i < external.size(); ++i) {
    EXPECT_EQ(external[i]->shape(), GetParam().external[i]);
  }

  ASSERT_OK_AND_ASSIGN(const Expr native, GetParam().relayout->Import(external));

  EXPECT_TRUE(IsRef(native)) << native->ToString();
}

TEST_P(RelayoutTest, BytesComeBackThroughFilesBetween) {
  ASSERT_OK_AND_ASSIGN(const Expr native, GetParam().relayout->Import(refs_));
  ASSERT_OK_AND_ASSIGN(const auto imported, ConvertedSource::Create(&external_, {{"native", native}}));
  // Stored, so that nothing can be simplified away.
  MemorySource stored;
  std::vector<float> values = ReadWhole(*imported, 0);
  stored.Add("native", DType::kF32, GetParam().native, values);
  ASSERT_OK_AND_ASSIGN(const std::vector<Expr> exported, GetParam().relayout->Export(Ref(stored.manifest()[0], 0)));
  std::vector<ConvertedTensor> tensors;
  for (const Expr& expression : exported) {
    tensors.push_back({absl::StrCat("e", tensors.size()), expression});
  }
  ASSERT_OK_AND_ASSIGN(const auto source, ConvertedSource::Create(&stored, tensors));

  for (size_t i = 0; i < exported.size(); ++i) {
    EXPECT_EQ(ReadWhole(*source, i), ReadWhole(external_, i));
  }
  // A re-layout loses and invents no element.
  std::sort(values.begin(), values.end());
  EXPECT_EQ(values, Counted(static_cast<int64_t>(values.size()), 0));
}

TEST_P(RelayoutTest, BoxesAreWhatTheWholeIs) {
  ASSERT_OK_AND_ASSIGN(const Expr native, GetParam().relayout->Import(refs_));
  ASSERT_OK_AND_ASSIGN(const auto source, ConvertedSource::Create(&external_, {{"native", native}}));
  const std::vector<float> whole = ReadWhole(*source, 0);
  RandomGeometry random(21);

  for (int i = 0; i < 200; ++i) {
    const Box box = random.BoxIn(GetParam().native);
    std::vector<float> part(box.num_elements());
    ASSERT_OK(source->Read({{0, box, StridedSpan::Contiguous(reinterpret_cast<char*>(part.data()), 4, box.sizes)}}));
    size_t next = 0;
    ForEachIndex(box.sizes, [&](const Dims& index) {
      ASSERT_EQ(part[next++], whole[FlatIndex(GetParam().native, Shifted(box, index))]) << box.ToString();
    });
  }
}

TEST_P(RelayoutTest, OtherCountsAreRefused) {
  std::vector<Expr> more = refs_;
  more.push_back(refs_[0]);
  EXPECT_THAT(GetParam().relayout->Import(more), IsKind(ErrorKind::kShape));
  EXPECT_THAT(GetParam().relayout->Import({}), IsKind(ErrorKind::kShape));
}

INSTANTIATE_TEST_SUITE_P(
    All, RelayoutTest,
    testing::Values(
        RelayoutCase{"Rename", RenameRelayout(), {{3, 4}}, {3, 4}},
        RelayoutCase{"RenameOfRank0", RenameRelayout(), {{}}, {}},
        RelayoutCase{"Concat", ConcatRelayout({4, 2, 3}), {{4, 5}, {2, 5}, {3, 5}}, {9, 5}},
        RelayoutCase{"ConcatOfColumns", ConcatRelayout({4, 2}, 1), {{3, 4}, {3, 2}}, {3, 6}},
        RelayoutCase{"ConcatOfBiases", ConcatRelayout({4, 4}), {{4}, {4}}, {8}},
        RelayoutCase{"Stack", StackRelayout(3), {{2, 4}, {2, 4}, {2, 4}}, {3, 2, 4}},
        RelayoutCase{"StackOfOne", StackRelayout(1), {{2, 4}}, {1, 2, 4}},
        RelayoutCase{
            "StackOfConcats", StackRelayout(2, ConcatRelayout({2, 3}), 2), {{2, 4}, {3, 4}, {2, 4}, {3, 4}}, {2, 5, 4}},
        RelayoutCase{"StackOfTransposes", StackRelayout(2, TransposeRelayout({1, 0}), 1), {{4, 3}, {4, 3}}, {2, 3, 4}},
        RelayoutCase{"Transpose", TransposeRelayout({1, 2, 0}), {{3, 4, 2}}, {2, 3, 4}},
        RelayoutCase{"Reshape", ReshapeRelayout({6, 4}, {2, 3, 1, 4}), {{2, 3, 1, 4}}, {6, 4}},
        RelayoutCase{"RotaryInterleave", RotaryInterleaveRelayout(2, 6), {{12, 3}}, {12, 3}},
        RelayoutCase{"RotaryInterleaveOfBiases", RotaryInterleaveRelayout(3, 4), {{12}}, {12}}),
    [](const testing::TestParamInfo<RelayoutCase>& info) { return info.param.name; });

TEST(RotaryInterleaveRelayoutTest, PairsBecomeHalves) {
  MemorySource external;
  external.Add("q", DType::kF32, {8}, std::vector<float>{0, 1, 2, 3, 4, 5, 6, 7});
  ASSERT_OK_AND_ASSIGN(const Expr native, RotaryInterleaveRelayout(2, 4)->Import({Ref(external.manifest()[0], 0)}));
  ASSERT_OK_AND_ASSIGN(const auto source, ConvertedSource::Create(&external, {{"q", native}}));

  EXPECT_EQ(ReadWhole(*source, 0), (std::vector<float>{0, 2, 1, 3, 4, 6, 5, 7}));
}

TEST(TransposeRelayoutTest, PermutationGoesFromNativeToExternal) {
  MemorySource external;
  external.Add("w", DType::kF32, {3, 2}, std::vector<float>{0, 1, 2, 3, 4, 5});
  ASSERT_OK_AND_ASSIGN(const Expr native, TransposeRelayout({1, 0})->Import({Ref(external.manifest()[0], 0)}));
  ASSERT_OK_AND_ASSIGN(const auto source, ConvertedSource::Create(&external, {{"w", native}}));

  EXPECT_EQ(ReadWhole(*source, 0), (std::vector<float>{0, 2, 4, 1, 3, 5}));
}

}  // namespace
}  // namespace waypoint
