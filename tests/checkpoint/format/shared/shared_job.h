#ifndef TESTS_CHECKPOINT_FORMAT_SHARED_SHARED_JOB_H_
#define TESTS_CHECKPOINT_FORMAT_SHARED_SHARED_JOB_H_

// Jobs of threads that write common files.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/coordination/thread_exchange.h"
#include "tests/checkpoint/format/distributed/job.h"

namespace waypoint {

// Large enough for several rounds under the smallest bound, small enough for a test: 9 MB.
inline std::unique_ptr<MemorySource> RoundsState(uint64_t seed) {
  auto state = std::make_unique<MemorySource>();
  int64_t i = 0;
  for (const Dims& shape : {Dims{700, 512}, Dims{3, 101, 33}, Dims{}, Dims{511, 700}, Dims{257, 1024}, Dims{5000}}) {
    const std::string name = absl::StrCat("decoder.", i, ".weight");
    AddRandom(name, i % 2 == 0 ? DType::kBF16 : DType::kF32, shape, seed * 100 + i, state.get());
    AddRandom(name + "/exp_avg", DType::kF32, shape, seed * 100 + 50 + i, state.get());
    AddRandom(name + "/exp_avg_sq", DType::kF32, shape, seed * 100 + 70 + i, state.get());
    ++i;
  }
  AddRandom("step_count", DType::kI64, {3}, seed, state.get());
  return state;
}

// Saves `state` as ranks that hold it under `layout`; `file_systems` and the wrapping of coordinators are the caller's.
struct SharedJob {
  std::vector<std::unique_ptr<Coordinator>> coordinators;
  std::vector<std::unique_ptr<Exchange>> exchanges;

  explicit SharedJob(std::vector<std::unique_ptr<Coordinator>> ranks) : coordinators(std::move(ranks)) {
    std::vector<Coordinator*> borrowed;
    for (const auto& rank : coordinators) {
      borrowed.push_back(rank.get());
    }
    exchanges = NewThreadExchanges(borrowed);
  }

  SaveOptions Options(int rank) const {
    SaveOptions options;
    options.coordinator = coordinators[rank].get();
    options.exchange = exchanges[rank].get();
    options.coordination_timeout = absl::Seconds(20);
    options.max_exchange_bytes = int64_t{4} << 20;
    return options;
  }

  // A rank leaves the job when its function returns.
  std::vector<absl::Status> Run(const std::function<absl::Status(int rank)>& rank_main) {
    std::vector<absl::Status> statuses(coordinators.size());
    std::vector<std::thread> threads;
    for (size_t rank = 0; rank < coordinators.size(); ++rank) {
      threads.emplace_back([&, rank] {
        statuses[rank] = rank_main(static_cast<int>(rank));
        exchanges[rank].reset();
        coordinators[rank].reset();
      });
    }
    for (std::thread& thread : threads) {
      thread.join();
    }
    return statuses;
  }
};

}  // namespace waypoint

#endif  // TESTS_CHECKPOINT_FORMAT_SHARED_SHARED_JOB_H_
