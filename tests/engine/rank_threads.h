#ifndef TESTS_ENGINE_RANK_THREADS_H_
#define TESTS_ENGINE_RANK_THREADS_H_

// Jobs whose ranks are threads of the test, with real process groups between them.

#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "checkpoint/coordination/c10d/c10d_coordinator.h"
#include "checkpoint/coordination/thread_coordinator.h"

namespace waypoint::engine {

struct TestRank {
  // Where process groups meet.
  C10dOptions rendezvous;
  std::unique_ptr<Coordinator> coordinator;
};

// Runs `rank_main` as every rank of a job.
inline std::vector<absl::Status> RunRanks(int world_size, const std::function<absl::Status(TestRank)>& rank_main) {
  C10dOptions serving;
  serving.linger = absl::ZeroDuration();
  const auto store = C10dCoordinator::Create(serving);
  if (!store.ok()) {
    return {store.status()};
  }
  std::vector<std::unique_ptr<Coordinator>> coordinators = NewThreadCoordinators(world_size);
  std::vector<absl::Status> statuses(world_size);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < world_size; ++rank) {
    threads.emplace_back([&, rank] {
      TestRank mine;
      mine.rendezvous.rank = rank;
      mine.rendezvous.world_size = world_size;
      mine.rendezvous.port = (*store)->port();
      mine.rendezvous.rank_0_serves = false;
      mine.coordinator = std::move(coordinators[rank]);
      statuses[rank] = rank_main(std::move(mine));
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  return statuses;
}

}  // namespace waypoint::engine

#endif  // TESTS_ENGINE_RANK_THREADS_H_
