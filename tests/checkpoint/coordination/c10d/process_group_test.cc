#include "checkpoint/coordination/c10d/process_group.h"

#include <chrono>
#include <exception>
#include <functional>
#include <future>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>

#include "absl/time/clock.h"
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
  const auto group =
      ConnectWatched([]() -> c10::intrusive_ptr<GroupBackend> { throw std::runtime_error("no route"); }, nullptr);

  EXPECT_THAT(group, IsKind(ErrorKind::kRank, HasSubstr("no route")));
}

class FakeWork : public c10d::Work {
 public:
  void Finish(std::exception_ptr problem = nullptr) { finish(std::move(problem)); }
  bool wait(std::chrono::milliseconds /*timeout*/) override { return waited = true; }
  void abort() override {
    aborted = true;
    throw std::runtime_error("not aborted");
  }

  bool waited = false;
  bool aborted = false;
};

std::string WhatWaitingThrows(FakeWork& work, absl::Duration timeout, const std::function<absl::Status()>& watch) {
  try {
    WaitWatched(work, timeout, watch);
  } catch (const std::exception& e) {
    return e.what();
  }
  return "";
}

constexpr absl::Duration kLong = absl::Minutes(10);

TEST(WaitWatchedTest, WorkThatIsDoneIsWaitedForAndNotAborted) {
  FakeWork work;
  std::thread other([&work] {
    absl::SleepFor(absl::Milliseconds(10));
    work.Finish();
  });

  EXPECT_EQ(WhatWaitingThrows(work, kLong, nullptr), "");

  other.join();
  EXPECT_TRUE(work.waited);
  EXPECT_FALSE(work.aborted);
}

// Whatever aborting throws: why it was given up is what counts.
TEST(WaitWatchedTest, WorkOfALostMemberIsAbortedAndSaysWho) {
  FakeWork work;
  int asked = 0;

  EXPECT_EQ(WhatWaitingThrows(
                work, kLong,
                [&asked] { return ++asked < 2 ? absl::OkStatus() : MakeError(ErrorKind::kRank, "rank 2 died"); }),
            "rank 2 died");

  EXPECT_EQ(asked, 2);
  EXPECT_TRUE(work.aborted);
}

TEST(WaitWatchedTest, WorkThatTakesTooLongIsAborted) {
  FakeWork work;

  EXPECT_EQ(WhatWaitingThrows(work, absl::Milliseconds(50), [] { return absl::OkStatus(); }), "not done within 50ms");

  EXPECT_TRUE(work.aborted);
}

TEST(WaitWatchedTest, WorkThatFailsIsAbortedAndSaysWhy) {
  FakeWork work;
  work.Finish(std::make_exception_ptr(std::runtime_error("a connection ended\nat a line")));

  EXPECT_EQ(WhatWaitingThrows(work, kLong, nullptr), "a connection ended");

  EXPECT_TRUE(work.aborted);
  EXPECT_FALSE(work.waited);
}

// A connection that ends does not say whose it was; the watch does.
TEST(WaitWatchedTest, WorkThatFailsForALostMemberSaysWho) {
  FakeWork work;
  work.Finish(std::make_exception_ptr(std::runtime_error("a connection ended")));

  EXPECT_EQ(WhatWaitingThrows(work, kLong, [] { return MakeError(ErrorKind::kRank, "rank 2 died"); }), "rank 2 died");
}

}  // namespace
}  // namespace waypoint
