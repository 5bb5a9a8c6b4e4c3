#ifndef TESTS_CHECKPOINT_COORDINATION_CONFORMANCE_H_
#define TESTS_CHECKPOINT_COORDINATION_CONFORMANCE_H_

// What every Coordinator of a job of several ranks must do.
//
//   INSTANTIATE_TEST_SUITE_P(Threads, CoordinatorConformanceTest, ::testing::Values(NewThreadCoordinators));

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "checkpoint/coordination/coordinator.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {

using NewCoordinators = std::function<std::vector<std::unique_ptr<Coordinator>>(int world_size)>;

class CoordinatorConformanceTest : public ::testing::TestWithParam<NewCoordinators> {
 protected:
  static constexpr absl::Duration kLong = absl::Seconds(20);
  static constexpr absl::Duration kShort = absl::Milliseconds(300);

  // Results are of their own memory each (no bool).  Runs `rank_main` as each rank; a rank's coordinator goes when its
  // function returns.
  template <typename Result>
  std::vector<Result> Run(int world_size, const std::function<Result(Coordinator&)>& rank_main) {
    std::vector<std::unique_ptr<Coordinator>> coordinators = GetParam()(world_size);
    std::vector<Result> results(world_size);
    std::vector<std::thread> threads;
    for (int rank = 0; rank < world_size; ++rank) {
      threads.emplace_back([&, rank] {
        results[rank] = rank_main(*coordinators[rank]);
        coordinators[rank].reset();
      });
    }
    for (std::thread& thread : threads) {
      thread.join();
    }
    return results;
  }
  std::vector<absl::Status> RunStatus(int world_size, const std::function<absl::Status(Coordinator&)>& rank_main) {
    return Run<absl::Status>(world_size, rank_main);
  }
};

TEST_P(CoordinatorConformanceTest, RanksKnowTheirPlace) {
  const auto places =
      Run<std::pair<int, int>>(3, [](Coordinator& c) { return std::make_pair(c.rank(), c.world_size()); });

  EXPECT_THAT(places, ::testing::ElementsAre(std::make_pair(0, 3), std::make_pair(1, 3), std::make_pair(2, 3)));
}

TEST_P(CoordinatorConformanceTest, EveryRankGetsWhatTheRootSent) {
  const auto got = Run<std::string>(
      4, [](Coordinator& c) { return c.Broadcast("word", absl::StrCat("from ", c.rank()), 2, kLong).value(); });

  EXPECT_THAT(got, ::testing::Each("from 2"));
}

TEST_P(CoordinatorConformanceTest, GathersBytesByRankManyTimes) {
  const auto wrong = Run<int>(3, [](Coordinator& c) {
    int mistakes = 0;
    for (int i = 0; i < 50; ++i) {
      const auto all = c.AllGather("numbers", absl::StrCat(c.rank(), std::string(1, '\0'), i), kLong);
      for (int rank = 0; rank < 3; ++rank) {
        mistakes += !all.ok() || (*all)[rank] != absl::StrCat(rank, std::string(1, '\0'), i);
      }
    }
    return mistakes;
  });

  EXPECT_THAT(wrong, ::testing::Each(0));
}

TEST_P(CoordinatorConformanceTest, MessagesOfAMegabytePass) {
  const auto ok = Run<int>(2, [](Coordinator& c) -> int {
    const auto all = c.AllGather("big", std::string(1 << 20, 'a' + c.rank()), kLong);
    return all.ok() && (*all)[1] == std::string(1 << 20, 'b');
  });

  EXPECT_THAT(ok, ::testing::Each(1));
}

TEST_P(CoordinatorConformanceTest, ABarrierWaitsForAll) {
  std::atomic<int> before{0};

  const auto seen = Run<int>(4, [&before](Coordinator& c) {
    absl::SleepFor(absl::Milliseconds(20 * c.rank()));
    ++before;
    EXPECT_OK(c.Barrier("all", kLong));
    return before.load();
  });

  EXPECT_THAT(seen, ::testing::Each(4));
}

TEST_P(CoordinatorConformanceTest, AnAbsentRankIsNamedToAllAfterTheTimeout) {
  const auto statuses = RunStatus(3, [](Coordinator& c) {
    if (c.rank() == 1) {
      absl::SleepFor(4 * kShort);
      return absl::OkStatus();
    }
    return c.Barrier("meet", kShort);
  });

  EXPECT_THAT(statuses[0], IsKind(ErrorKind::kRank, ::testing::HasSubstr("rank 1")));
  EXPECT_THAT(statuses[2], IsKind(ErrorKind::kRank, ::testing::HasSubstr("rank 1")));
}

TEST_P(CoordinatorConformanceTest, ARankThatComesTooLateFailsToo) {
  const auto statuses = RunStatus(2, [](Coordinator& c) {
    if (c.rank() == 1) {
      absl::SleepFor(4 * kShort);
    }
    return c.Barrier("meet", c.rank() == 1 ? kLong : kShort);
  });

  EXPECT_THAT(statuses, ::testing::Each(IsKind(ErrorKind::kRank)));
}

TEST_P(CoordinatorConformanceTest, ARankThatLeavesIsNamedLongBeforeTheTimeout) {
  const absl::Time start = absl::Now();

  const auto statuses =
      RunStatus(3, [](Coordinator& c) { return c.rank() == 2 ? absl::OkStatus() : c.Barrier("meet", kLong); });

  EXPECT_THAT(statuses[0], IsKind(ErrorKind::kRank, ::testing::HasSubstr("rank 2")));
  EXPECT_THAT(statuses[1], IsKind(ErrorKind::kRank, ::testing::HasSubstr("rank 2")));
  EXPECT_LT(absl::Now() - start, kLong / 2);
}

TEST_P(CoordinatorConformanceTest, LeavingAfterTheLastCallIsNoFailure) {
  for (int i = 0; i < 5; ++i) {
    EXPECT_THAT(RunStatus(3, [](Coordinator& c) { return c.Barrier("last", kLong); }), ::testing::Each(IsOk()));
  }
}

TEST_P(CoordinatorConformanceTest, RanksAtDifferentCallsAreToldBothNames) {
  const auto statuses = RunStatus(2, [](Coordinator& c) { return c.Barrier(c.rank() == 0 ? "save" : "load", kLong); });

  for (const absl::Status& status : statuses) {
    EXPECT_THAT(status, IsKind(ErrorKind::kRank,
                               ::testing::AllOf(::testing::HasSubstr("\"save\""), ::testing::HasSubstr("\"load\""))));
  }
}

TEST_P(CoordinatorConformanceTest, AfterAnErrorEveryCallFailsAtOnceWithTheSame) {
  const auto repeated = Run<int>(2, [](Coordinator& c) -> int {
    const absl::Status first = c.Barrier(absl::StrCat(c.rank()), kLong);
    const absl::Time start = absl::Now();
    const absl::Status second = c.AllGather("again", "", kLong).status();
    return !first.ok() && second == first && absl::Now() - start < kLong / 2;
  });

  EXPECT_THAT(repeated, ::testing::Each(1));
}

TEST_P(CoordinatorConformanceTest, AgreeTellsWhoFailedAndLeavesTheJobUsable) {
  const auto statuses = RunStatus(3, [](Coordinator& c) {
    const absl::Status mine = c.rank() == 1 ? MakeError(ErrorKind::kNoSpace, "disk full") : absl::OkStatus();
    const absl::Status agreed = c.Agree("write", mine, kLong);
    EXPECT_OK(c.Barrier("after", kLong));
    return agreed;
  });

  EXPECT_THAT(statuses[0], IsKind(ErrorKind::kRank, ::testing::HasSubstr("rank 1 failed at \"write\"")));
  EXPECT_THAT(statuses[1], IsKind(ErrorKind::kNoSpace));
  EXPECT_THAT(statuses[2], IsKind(ErrorKind::kRank, ::testing::HasSubstr("disk full")));
}

TEST_P(CoordinatorConformanceTest, GatherIfOkGivesBytesOrTheErrorOfARank) {
  const auto statuses = RunStatus(2, [](Coordinator& c) {
    const auto good = c.AllGatherIfOk("sizes", absl::StrCat(c.rank()), kLong);
    EXPECT_TRUE(good.ok() && *good == std::vector<std::string>({"0", "1"}));
    absl::StatusOr<std::string> mine = std::string("fine");
    if (c.rank() == 0) {
      mine = MakeError(ErrorKind::kIo, "cable");
    }
    return c.AllGatherIfOk("digests", mine, kLong).status();
  });

  EXPECT_THAT(statuses[0], IsKind(ErrorKind::kIo));
  EXPECT_THAT(statuses[1], IsKind(ErrorKind::kRank, ::testing::HasSubstr("rank 0 failed at \"digests\"")));
}

// The others wait for the message.
TEST_P(CoordinatorConformanceTest, AMessageThatIsTooLargeIsToldToAllAndTheJobStaysUsable) {
  const auto statuses = RunStatus(3, [](Coordinator& c) {
    const std::string mine(c.rank() == 1 ? Coordinator::kMaxMessageBytes + 1 : 1, 'x');
    const absl::Status gathered = c.AllGather("plan", mine, kLong).status();
    EXPECT_OK(c.Barrier("after", kLong));
    return gathered;
  });

  EXPECT_THAT(statuses[1], IsKind(ErrorKind::kRequest, ::testing::HasSubstr("message \"plan\" has 67108865 bytes")));
  for (const int other : {0, 2}) {
    EXPECT_THAT(statuses[other],
                IsKind(ErrorKind::kRank, ::testing::AllOf(::testing::HasSubstr("rank 1"),
                                                          ::testing::HasSubstr("\"plan\" has 67108865 bytes"))));
  }
}

TEST_P(CoordinatorConformanceTest, ARootThatIsNoRankIsRefused) {
  const auto statuses = RunStatus(2, [](Coordinator& c) { return c.Broadcast("x", "", 2, kLong).status(); });

  EXPECT_THAT(statuses, ::testing::Each(IsKind(ErrorKind::kRequest, ::testing::HasSubstr("rank 2"))));
}

}  // namespace waypoint

#endif  // TESTS_CHECKPOINT_COORDINATION_CONFORMANCE_H_
