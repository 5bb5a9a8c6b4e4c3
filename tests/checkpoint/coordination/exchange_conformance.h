#ifndef TESTS_CHECKPOINT_COORDINATION_EXCHANGE_CONFORMANCE_H_
#define TESTS_CHECKPOINT_COORDINATION_EXCHANGE_CONFORMANCE_H_

// What every Exchange of a job of several ranks must do.
//
//   INSTANTIATE_TEST_SUITE_P(Threads, ExchangeConformanceTest, ::testing::Values(NewThreadJob));

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "checkpoint/coordination/exchange.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {

struct ExchangeRank {
  std::unique_ptr<Coordinator> coordinator;
  std::unique_ptr<Exchange> exchange;
};
using NewExchangeJob = std::function<std::vector<ExchangeRank>(int world_size)>;

class ExchangeConformanceTest : public ::testing::TestWithParam<NewExchangeJob> {
 protected:
  static constexpr absl::Duration kLong = absl::Seconds(20);
  static constexpr absl::Duration kShort = absl::Milliseconds(300);

  // Runs `rank_main` as each rank, which leaves the job when its function returns.
  std::vector<absl::Status> Run(int world_size, const std::function<absl::Status(Exchange&)>& rank_main) {
    std::vector<ExchangeRank> ranks = GetParam()(world_size);
    std::vector<absl::Status> statuses(world_size);
    std::vector<std::thread> threads;
    for (int rank = 0; rank < world_size; ++rank) {
      threads.emplace_back([&, rank] {
        statuses[rank] = rank_main(*ranks[rank].exchange);
        ranks[rank].exchange.reset();
        ranks[rank].coordinator.reset();
      });
    }
    for (std::thread& thread : threads) {
      thread.join();
    }
    return statuses;
  }

  // What `from` sends to `to` in a round: some pairs have nothing for each other.
  static std::string Message(int from, int to, int round) {
    return (from + 2 * to + round) % 4 == 0
               ? ""
               : absl::StrCat(from, ">", to, "@", round,
                              std::string(1000 * (from + 1) + 37 * to, static_cast<char>('a' + round)));
  }

  static absl::Status Round(Exchange& exchange, int round, absl::Duration timeout,
                            const absl::Status& mine = absl::OkStatus()) {
    const int rank = exchange.ranks().rank();
    const int world_size = exchange.ranks().world_size();
    std::string send;
    std::string expected;
    RankParts<const char> sent;
    RankParts<char> received;
    for (int other = 0; other < world_size; ++other) {
      const std::string out = Message(rank, other, round);
      const std::string in = Message(other, rank, round);
      send += out;
      expected += in;
      sent.sizes.push_back(static_cast<int64_t>(out.size()));
      received.sizes.push_back(static_cast<int64_t>(in.size()));
    }
    std::string receive(expected.size(), '?');
    sent.bytes = absl::MakeConstSpan(send.data(), send.size());
    received.bytes = absl::MakeSpan(&receive[0], receive.size());
    const absl::Status status = exchange.AllToAll(absl::StrCat("round ", round), mine, sent, received, timeout);
    if (status.ok() && receive != expected) {
      return MakeError(ErrorKind::kVerify, absl::StrCat("rank ", rank, " got other bytes in round ", round));
    }
    return status;
  }
};

TEST_P(ExchangeConformanceTest, EveryRankGetsWhatEveryRankSentItManyTimes) {
  for (const int world_size : {1, 2, 5}) {
    EXPECT_THAT(Run(world_size,
                    [](Exchange& exchange) {
                      for (int round = 0; round < 10; ++round) {
                        const absl::Status status = Round(exchange, round, kLong);
                        if (!status.ok()) {
                          return status;
                        }
                      }
                      return absl::OkStatus();
                    }),
                ::testing::Each(IsOk()));
  }
}

TEST_P(ExchangeConformanceTest, MegabytesPass) {
  const auto statuses = Run(3, [](Exchange& exchange) -> absl::Status {
    const int rank = exchange.ranks().rank();
    constexpr int64_t kBytes = 5'000'003;
    const std::string send(3 * kBytes, static_cast<char>('a' + rank));
    std::string receive(3 * kBytes, '?');
    const std::vector<int64_t> sizes = {kBytes, kBytes, kBytes};
    absl::Status status =
        exchange.AllToAll("large", absl::OkStatus(), {absl::MakeConstSpan(send.data(), send.size()), sizes},
                          {absl::MakeSpan(&receive[0], receive.size()), sizes}, kLong);
    for (int from = 0; from < 3; ++from) {
      if (status.ok() && receive.substr(from * kBytes, kBytes) != std::string(kBytes, static_cast<char>('a' + from))) {
        status = MakeError(ErrorKind::kVerify, "other bytes");
      }
    }
    return status;
  });

  EXPECT_THAT(statuses, ::testing::Each(IsOk()));
}

TEST_P(ExchangeConformanceTest, ARoundWithNothingToMoveIsFine) {
  EXPECT_THAT(Run(3,
                  [](Exchange& exchange) {
                    return exchange.AllToAll("nothing", absl::OkStatus(), {{}, {0, 0, 0}}, {{}, {0, 0, 0}}, kLong);
                  }),
              ::testing::Each(IsOk()));
}

TEST_P(ExchangeConformanceTest, TheErrorOfOneRankReachesAllAndTheJobStaysUsable) {
  const auto statuses = Run(3, [](Exchange& exchange) {
    const absl::Status mine = exchange.ranks().rank() == 1 ? MakeError(ErrorKind::kIo, "cable") : absl::OkStatus();
    const absl::Status failed = Round(exchange, 0, kLong, mine);
    EXPECT_OK(Round(exchange, 1, kLong));
    return failed;
  });

  EXPECT_THAT(statuses[0], IsKind(ErrorKind::kRank, ::testing::HasSubstr("rank 1 failed at \"round 0\"")));
  EXPECT_THAT(statuses[1], IsKind(ErrorKind::kIo));
  EXPECT_THAT(statuses[2], IsKind(ErrorKind::kRank, ::testing::HasSubstr("cable")));
}

TEST_P(ExchangeConformanceTest, SizesThatDisagreeAreAnErrorOfAllBeforeAnythingMoves) {
  const auto statuses = Run(2, [](Exchange& exchange) {
    const int rank = exchange.ranks().rank();
    const std::string send(10, 'x');
    std::string receive(10, '?');
    const std::vector<int64_t> out = rank == 0 ? std::vector<int64_t>{0, 10} : std::vector<int64_t>{0, 0};
    const std::vector<int64_t> in = rank == 1 ? std::vector<int64_t>{4, 0} : std::vector<int64_t>{0, 0};
    return exchange.AllToAll("sizes", absl::OkStatus(), {absl::MakeConstSpan(send.data(), rank == 0 ? 10 : 0), out},
                             {absl::MakeSpan(&receive[0], rank == 1 ? 4 : 0), in}, kLong);
  });

  EXPECT_THAT(statuses, ::testing::Each(IsKind(
                            ErrorKind::kRank, ::testing::HasSubstr("rank 0 sends 10 bytes to rank 1, which wants 4"))));
}

TEST_P(ExchangeConformanceTest, PartsThatDoNotMakeUpTheBufferAreRefused) {
  const auto statuses = Run(2, [](Exchange& exchange) {
    return exchange.AllToAll("parts", absl::OkStatus(), {{}, {0, 5}}, {{}, {0, 0}}, kLong);
  });

  EXPECT_THAT(statuses, ::testing::Each(IsKind(ErrorKind::kRequest)));
}

TEST_P(ExchangeConformanceTest, ARankThatStaysAwayIsNamedAfterTheTimeout) {
  const auto statuses = Run(3, [](Exchange& exchange) {
    if (exchange.ranks().rank() == 1) {
      absl::SleepFor(4 * kShort);
      return absl::OkStatus();
    }
    return Round(exchange, 0, kShort);
  });

  EXPECT_THAT(statuses[0], IsKind(ErrorKind::kRank, ::testing::HasSubstr("rank 1")));
  EXPECT_THAT(statuses[2], IsKind(ErrorKind::kRank, ::testing::HasSubstr("rank 1")));
}

TEST_P(ExchangeConformanceTest, ARankThatLeavesIsNamedLongBeforeTheTimeout) {
  const absl::Time start = absl::Now();

  const auto statuses = Run(3, [](Exchange& exchange) {
    return exchange.ranks().rank() == 2 ? absl::OkStatus() : Round(exchange, 0, kLong);
  });

  EXPECT_THAT(statuses[0], IsKind(ErrorKind::kRank, ::testing::HasSubstr("rank 2")));
  EXPECT_THAT(statuses[1], IsKind(ErrorKind::kRank, ::testing::HasSubstr("rank 2")));
  EXPECT_LT(absl::Now() - start, kLong / 2);
}

}  // namespace waypoint

#endif  // TESTS_CHECKPOINT_COORDINATION_EXCHANGE_CONFORMANCE_H_
