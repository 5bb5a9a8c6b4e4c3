#include "checkpoint/coordination/c10d/process_group.h"

#include <future>
#include <memory>
#include <stdexcept>

#include "checkpoint/base/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {
namespace {

using ::testing::HasSubstr;

// A rank that dies while others connect would keep them until their timeout.
TEST(ConnectWatchedTest, WhatIsWaitedForInVainIsLeft) {
  const auto never = std::make_shared<std::promise<void>>();
  int asked = 0;

  const auto group = ConnectWatched(
      [never]() -> c10::intrusive_ptr<GroupBackend> {
        never->get_future().wait();
        return {};
      },
      [&asked] { return ++asked < 2 ? absl::OkStatus() : MakeError(ErrorKind::kRank, "rank 2 died"); });

  EXPECT_THAT(group, IsKind(ErrorKind::kRank, HasSubstr("rank 2 died")));
  EXPECT_EQ(asked, 2);
  never->set_value();
}

TEST(ConnectWatchedTest, WhatConnectingThrowsIsReturned) {
  const auto group = ConnectWatched([]() -> c10::intrusive_ptr<GroupBackend> { throw std::runtime_error("no route"); },
                                    nullptr);

  EXPECT_THAT(group, IsKind(ErrorKind::kRank, HasSubstr("no route")));
}

}  // namespace
}  // namespace waypoint
