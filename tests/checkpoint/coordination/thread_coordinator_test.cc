#include "checkpoint/coordination/thread_coordinator.h"

#include "tests/checkpoint/coordination/conformance.h"

namespace waypoint {
namespace {

INSTANTIATE_TEST_SUITE_P(Threads, CoordinatorConformanceTest, ::testing::Values(NewThreadCoordinators));

TEST(ThreadCoordinatorTest, AJobOfOneRankDoesNotWait) {
  const auto ranks = NewThreadCoordinators(1);

  EXPECT_OK(ranks[0]->Barrier("alone", absl::ZeroDuration()));
}

}  // namespace
}  // namespace waypoint
