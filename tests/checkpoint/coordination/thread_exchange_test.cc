#include "checkpoint/coordination/thread_exchange.h"

#include "checkpoint/coordination/thread_coordinator.h"
#include "tests/checkpoint/coordination/exchange_conformance.h"

namespace waypoint {
namespace {

std::vector<ExchangeRank> NewThreadJob(int world_size) {
  std::vector<ExchangeRank> ranks;
  std::vector<Coordinator*> borrowed;
  for (std::unique_ptr<Coordinator>& coordinator : NewThreadCoordinators(world_size)) {
    borrowed.push_back(coordinator.get());
    ranks.push_back({std::move(coordinator), nullptr});
  }
  std::vector<std::unique_ptr<Exchange>> exchanges = NewThreadExchanges(borrowed);
  for (int rank = 0; rank < world_size; ++rank) {
    ranks[rank].exchange = std::move(exchanges[rank]);
  }
  return ranks;
}

INSTANTIATE_TEST_SUITE_P(Threads, ExchangeConformanceTest, ::testing::Values(NewThreadJob));

TEST(LocalExchangeTest, OneRankGetsItsOwnBytes) {
  LocalCoordinator alone;
  LocalExchange exchange(alone);
  const std::string send = "bytes";
  std::string receive = "?????";

  ASSERT_OK(exchange.AllToAll("one", absl::OkStatus(), {absl::MakeConstSpan(send.data(), 5), {5}},
                              {absl::MakeSpan(&receive[0], 5), {5}}, absl::Seconds(1)));

  EXPECT_EQ(receive, send);
}

}  // namespace
}  // namespace waypoint
