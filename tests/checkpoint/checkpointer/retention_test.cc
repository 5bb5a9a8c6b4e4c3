#include "checkpoint/checkpointer/retention.h"

#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace waypoint {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

Retention Best(int64_t n, bool higher_is_better) {
  Retention retention;
  retention.keep = 1;
  retention.keep_best = n;
  retention.best_metric = "loss";
  retention.higher_is_better = higher_is_better;
  return retention;
}

TEST(ChooseDeletionsTest, ZeroKeepsAll) { EXPECT_THAT(ChooseDeletions({}, {{1}, {2}, {3}}), IsEmpty()); }

TEST(ChooseDeletionsTest, TheNewestStay) {
  Retention retention;
  retention.keep = 2;

  EXPECT_THAT(ChooseDeletions(retention, {{1}, {2}, {3}, {4}}), ElementsAre(0, 1));
}

TEST(ChooseDeletionsTest, ASaveThatStaysDoesNotPushOutAnother) {
  Retention retention;
  retention.keep = 1;

  EXPECT_THAT(ChooseDeletions(retention, {{1, {}, true}, {2}, {3}}), ElementsAre(1));
}

TEST(ChooseDeletionsTest, AttemptsOfOneStepAreCountedEach) {
  Retention retention;
  retention.keep = 2;

  EXPECT_THAT(ChooseDeletions(retention, {{1}, {2}, {2}}), ElementsAre(0));
}

TEST(ChooseDeletionsTest, EveryNthStaysAndIsNotCounted) {
  Retention retention;
  retention.keep = 1;
  retention.keep_every = 2;
  retention.interval = 10;

  // 20 and 40 stay for ever.
  EXPECT_THAT(ChooseDeletions(retention, {{10}, {20}, {30}, {40}, {50}}), ElementsAre(0, 2));
}

TEST(ChooseDeletionsTest, AHugeKeepEveryDoesNotOverflow) {
  Retention retention;
  retention.keep = 1;
  retention.keep_every = std::numeric_limits<int64_t>::max();
  retention.interval = 10;

  EXPECT_THAT(ChooseDeletions(retention, {{10}, {20}}), ElementsAre(0));
}

TEST(ChooseDeletionsTest, SavesOffTheScheduleAreCountedLikeAllOthers) {
  Retention retention;
  retention.keep = 2;
  retention.interval = 10;
  const RetentionCandidate by_signal = {20, {}, false, false};

  EXPECT_THAT(ChooseDeletions(retention, {{10}, {13}, by_signal, {27}, {30}}), ElementsAre(0, 1, 2));
}

TEST(ChooseDeletionsTest, WithoutAnIntervalTheNewestStayAndNoneForEver) {
  Retention retention;
  retention.keep = 2;
  retention.interval = 0;
  retention.keep_every = 2;

  EXPECT_THAT(ChooseDeletions(retention, {{4}, {8}, {13}}), ElementsAre(0));
  retention.keep_unscheduled = true;
  EXPECT_THAT(ChooseDeletions(retention, {{4}, {8}, {13}}), IsEmpty());
}

TEST(ChooseDeletionsTest, SavesOffTheScheduleStayAndAreNotCountedWhereThatIsAsked) {
  Retention retention;
  retention.keep = 1;
  retention.interval = 10;
  retention.keep_unscheduled = true;

  EXPECT_THAT(ChooseDeletions(retention, {{10}, {13}, {20}, {27}}), ElementsAre(0));
}

TEST(ChooseDeletionsTest, ASaveThatSaysWhetherItWasScheduledIsBelieved) {
  Retention retention;
  retention.keep = 1;
  retention.interval = 10;
  retention.keep_unscheduled = true;
  const RetentionCandidate by_signal = {20, {}, false, false};
  const RetentionCandidate of_another_interval = {25, {}, false, true};

  EXPECT_THAT(ChooseDeletions(retention, {{10}, by_signal, of_another_interval, {26}, {30}}), ElementsAre(0, 2));
}

TEST(ChooseDeletionsTest, TheOnlyOneStaysWhateverItsMetric) {
  EXPECT_THAT(ChooseDeletions(Best(1, false), {{1, kNan}}), IsEmpty());
  EXPECT_THAT(ChooseDeletions(Best(0, false), {{1}}), IsEmpty());
  EXPECT_THAT(ChooseDeletions(Best(1, false), {}), IsEmpty());
}

TEST(ChooseDeletionsTest, TheWorstGoes) {
  EXPECT_THAT(ChooseDeletions(Best(2, false), {{1, 3.0}, {2, 1.0}, {3, 2.0}, {4, 9.0}}), ElementsAre(0));
  EXPECT_THAT(ChooseDeletions(Best(2, true), {{1, 3.0}, {2, 1.0}, {3, 2.0}, {4, 0.5}}), ElementsAre(1));
}

TEST(ChooseDeletionsTest, NanIsNeverBest) {
  EXPECT_THAT(ChooseDeletions(Best(1, false), {{1, kNan}, {2, 5.0}, {3, kNan}, {4, 9.0}}), ElementsAre(0, 2));
  EXPECT_THAT(ChooseDeletions(Best(1, true), {{1, kNan}, {2, 5.0}, {3, kNan}, {4, 1.0}}), ElementsAre(0, 2));
  // Not even where there is room.
  EXPECT_THAT(ChooseDeletions(Best(9, true), {{1, kNan}, {2, 5.0}, {3, 6.0}}), ElementsAre(0));
}

TEST(ChooseDeletionsTest, ZeroAndInfinityAreValues) {
  EXPECT_THAT(ChooseDeletions(Best(1, false), {{1, 0.0}, {2, 0.1}, {3, 5.0}}), ElementsAre(1));
  EXPECT_THAT(ChooseDeletions(Best(1, true), {{1, 0.0}, {2, -0.1}, {3, -5.0}}), ElementsAre(1));
  EXPECT_THAT(ChooseDeletions(Best(1, false), {{1, -kInfinity}, {2, 0.0}, {3, 1.0}}), ElementsAre(1));
  EXPECT_THAT(ChooseDeletions(Best(1, false), {{1, kInfinity}, {2}, {3}}), ElementsAre(1));
}

TEST(ChooseDeletionsTest, WithoutTheMetricASaveIsNoCandidate) {
  EXPECT_THAT(ChooseDeletions(Best(2, false), {{1}, {2, 5.0}, {3}, {4}}), ElementsAre(0, 2));
}

TEST(ChooseDeletionsTest, OfEqualsTheNewerStays) {
  EXPECT_THAT(ChooseDeletions(Best(1, false), {{1, 2.0}, {2, 2.0}, {3, 9.0}}), ElementsAre(0));
}

}  // namespace
}  // namespace waypoint
