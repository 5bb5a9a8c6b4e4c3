#include "optimizer/schedule.h"

#include <cmath>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {
namespace {

using testing::HasSubstr;

CosineSchedule Schedule() { return {/*peak=*/2.0, /*warmup_steps=*/4, /*total_steps=*/12, /*minimum_ratio=*/0.1}; }

TEST(LearningRateAtTest, RisesLinearly) {
  EXPECT_DOUBLE_EQ(LearningRateAt(Schedule(), 0), 0.5);
  EXPECT_DOUBLE_EQ(LearningRateAt(Schedule(), 1), 1.0);
  EXPECT_DOUBLE_EQ(LearningRateAt(Schedule(), 3), 2.0);
}

TEST(LearningRateAtTest, FallsAlongACosine) {
  EXPECT_DOUBLE_EQ(LearningRateAt(Schedule(), 4), 2.0);
  EXPECT_DOUBLE_EQ(LearningRateAt(Schedule(), 8), 1.1);
  EXPECT_NEAR(LearningRateAt(Schedule(), 6), 0.2 + 1.8 * 0.5 * (1 + std::sqrt(0.5)), 1e-12);
}

TEST(LearningRateAtTest, StaysAtTheMinimum) {
  EXPECT_DOUBLE_EQ(LearningRateAt(Schedule(), 12), 0.2);
  EXPECT_DOUBLE_EQ(LearningRateAt(Schedule(), 1'000'000), 0.2);
}

TEST(LearningRateAtTest, WarmupMayBeAbsentOrAll) {
  EXPECT_DOUBLE_EQ(LearningRateAt({1.0, 0, 2, 0.0}, 0), 1.0);
  EXPECT_DOUBLE_EQ(LearningRateAt({1.0, 2, 2, 0.5}, 1), 1.0);
  EXPECT_DOUBLE_EQ(LearningRateAt({1.0, 2, 2, 0.5}, 2), 0.5);
}

TEST(ValidateScheduleTest, NamesTheField) {
  EXPECT_THAT(ValidateSchedule(Schedule()), IsOk());
  EXPECT_THAT(ValidateSchedule({-1, 0, 1, 0}), IsKind(ErrorKind::kRequest, HasSubstr("peak is -1")));
  EXPECT_THAT(ValidateSchedule({1, 0, 0, 0}), IsKind(ErrorKind::kRequest, HasSubstr("total_steps is 0")));
  EXPECT_THAT(ValidateSchedule({1, 3, 2, 0}), IsKind(ErrorKind::kRequest, HasSubstr("warmup_steps is 3")));
  EXPECT_THAT(ValidateSchedule({1, 0, 2, 1.5}), IsKind(ErrorKind::kRequest, HasSubstr("minimum_ratio is 1.5")));
}

}  // namespace
}  // namespace waypoint
