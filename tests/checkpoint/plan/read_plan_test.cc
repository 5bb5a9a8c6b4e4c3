#include "checkpoint/plan/read_plan.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/checkpoint/plan/random_boxes.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(BoxIndexTest, FindsWhatALoopFinds) {
  Random random(1);
  for (int round = 0; round < 300; ++round) {
    const Dims shape = RandomShape(random, 3, 9);
    std::vector<Box> boxes;
    for (int64_t i = Uniform(random, 0, 60); i > 0; --i) {
      boxes.push_back(RandomBox(random, shape));
    }
    const Box asked = RandomBox(random, shape);
    std::vector<int64_t> expected;
    for (size_t i = 0; i < boxes.size(); ++i) {
      if (!boxes[i].empty() && !asked.empty() && Intersect(boxes[i], asked).has_value()) {
        expected.push_back(i);
      }
    }

    std::vector<int64_t> found;
    BoxIndex(boxes).ForEachOverlap(asked, [&found](int64_t index) {
      found.push_back(index);
      return true;
    });

    EXPECT_THAT(found, ::testing::UnorderedElementsAreArray(expected));
  }
}

TEST(BoxIndexTest, AHoleIsOutsideOfAllBoxesAndFoundWhenThereIsOne) {
  Random random(2);
  int holes = 0;
  for (int round = 0; round < 500; ++round) {
    const Dims shape = RandomShape(random, 3, 7);
    std::vector<Box> boxes = RandomTiling(random, shape, 12);
    if (round % 2 == 0) {
      boxes.erase(boxes.begin() + Uniform(random, 0, static_cast<int64_t>(boxes.size()) - 1));
    }

    const absl::optional<Box> hole = BoxIndex(boxes).FindHole(Box::Whole(shape));

    ASSERT_EQ(hole.has_value(), round % 2 == 0);
    if (hole.has_value()) {
      ++holes;
      EXPECT_FALSE(hole->empty());
      for (const Box& box : boxes) {
        EXPECT_FALSE(Intersect(box, *hole).has_value());
      }
    }
  }
  EXPECT_EQ(holes, 250);
}

TEST(SubtractTest, LeavesEveryOtherElementOnce) {
  Random random(3);
  for (int round = 0; round < 500; ++round) {
    const Dims shape = RandomShape(random, 4, 5);
    const Box from = RandomBox(random, shape);
    const Box taken = RandomBox(random, shape);

    const std::vector<int> left = CountElements(shape, Subtract(from, taken));

    const std::vector<int> in_from = CountElements(shape, {from});
    const std::vector<int> in_taken = CountElements(shape, {taken});
    for (size_t i = 0; i < left.size(); ++i) {
      ASSERT_EQ(left[i], in_from[i] && !in_taken[i]) << from.ToString() << " - " << taken.ToString();
    }
  }
}

TEST(ReadPlanTest, PartsCoverTheWantedBoxOnce) {
  Random random(4);
  for (int round = 0; round < 300; ++round) {
    const Dims shape = RandomShape(random, 3, 9);
    const std::vector<Box> stored = RandomTiling(random, shape, 30);
    ASSERT_OK_AND_ASSIGN(const ReadPlan plan, ReadPlan::Create("w", shape, stored));
    const Box wanted = RandomBox(random, shape);

    const std::vector<StoredPart> parts = plan.Find(wanted);

    std::vector<Box> boxes;
    for (const StoredPart& part : parts) {
      EXPECT_EQ(*Intersect(stored[part.stored], part.box), part.box);
      boxes.push_back(part.box);
    }
    EXPECT_EQ(CountElements(shape, boxes), CountElements(shape, {wanted}));
  }
}

TEST(ReadPlanTest, AHoleIsRefusedWithItsRange) {
  EXPECT_THAT(ReadPlan::Create("layer.w", {4, 6}, {{{0, 0}, {2, 6}}, {{2, 0}, {2, 4}}}),
              IsKind(ErrorKind::kMissing, HasSubstr("\"layer.w\": nothing is stored of [2:4, 4:6] of shape [4, 6]")));
}

TEST(ReadPlanTest, NothingStoredIsAHole) {
  EXPECT_THAT(ReadPlan::Create("w", {4}, {}), IsKind(ErrorKind::kMissing, HasSubstr("[0:4]")));
}

TEST(ReadPlanTest, OverlapsAreRefusedWithBothBoxes) {
  EXPECT_THAT(ReadPlan::Create("w", {4}, {{{0}, {3}}, {{2}, {2}}}),
              IsKind(ErrorKind::kAmbiguous, ::testing::AllOf(HasSubstr("[0:3]"), HasSubstr("[2:4]"))));
}

TEST(ReadPlanTest, AHoleDoesNotHideBehindAnOverlapOfTheSameSize) {
  EXPECT_THAT(ReadPlan::Create("w", {4}, {{{0}, {2}}, {{0}, {2}}}), IsKind(ErrorKind::kAmbiguous));
}

TEST(ReadPlanTest, BoxesOutsideOfTheShapeAreRefused) {
  EXPECT_THAT(ReadPlan::Create("w", {4}, {{{0}, {5}}}), IsKind(ErrorKind::kSchema));
  EXPECT_THAT(ReadPlan::Create("w", {4}, {{{0, 0}, {4, 1}}}), IsKind(ErrorKind::kSchema));
  EXPECT_THAT(ReadPlan::Create("w", {4}, {{{INT64_MAX}, {INT64_MAX}}}), IsKind(ErrorKind::kSchema));
}

TEST(ReadPlanTest, TensorsWithoutElementsNeedNoBox) {
  ASSERT_OK_AND_ASSIGN(const ReadPlan plan, ReadPlan::Create("w", {0, 5}, {}));

  EXPECT_THAT(plan.Find(Box::Whole({0, 5})), ElementsAre());
}

}  // namespace
}  // namespace waypoint
