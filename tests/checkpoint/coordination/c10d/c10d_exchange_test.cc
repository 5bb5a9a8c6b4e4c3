#include "checkpoint/coordination/c10d/c10d_exchange.h"

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "tests/checkpoint/coordination/exchange_conformance.h"

namespace waypoint {
namespace {

std::vector<ExchangeRank> NewC10dJob(int world_size) {
  C10dOptions options;
  options.world_size = world_size;
  options.connect_timeout = absl::Seconds(10);
  options.linger = absl::Seconds(2);
  std::vector<ExchangeRank> ranks(world_size);
  for (options.rank = 0; options.rank < world_size; ++options.rank) {
    auto coordinator = C10dCoordinator::Create(options);
    EXPECT_OK(coordinator);
    options.port = (*coordinator)->port();
    ranks[options.rank].coordinator = *std::move(coordinator);
  }
  std::vector<std::thread> threads;
  for (ExchangeRank& rank : ranks) {
    threads.emplace_back([&rank] {
      auto exchange = C10dExchange::Create(static_cast<C10dCoordinator&>(*rank.coordinator), absl::Seconds(20));
      EXPECT_OK(exchange);
      rank.exchange = *std::move(exchange);
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  return ranks;
}

INSTANTIATE_TEST_SUITE_P(C10d, ExchangeConformanceTest, ::testing::Values(NewC10dJob));

}  // namespace
}  // namespace waypoint
