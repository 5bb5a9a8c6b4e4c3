#ifndef TESTS_CHECKPOINT_FORMAT_DISTRIBUTED_JOB_H_
#define TESTS_CHECKPOINT_FORMAT_DISTRIBUTED_JOB_H_

// Jobs of threads that save and load small states.

#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "checkpoint/checkpointer/checkpointer.h"
#include "checkpoint/coordination/thread_coordinator.h"
#include "checkpoint/storage/fault_file_system.h"
#include "tests/testing/memory_source.h"
#include "tests/testing/rank_state.h"

namespace waypoint {

// Runs `rank_main` as every rank of a job.
inline std::vector<absl::Status> RunJob(int world_size,
                                        const std::function<absl::Status(std::unique_ptr<Coordinator>)>& rank_main) {
  std::vector<std::unique_ptr<Coordinator>> coordinators = NewThreadCoordinators(world_size);
  std::vector<absl::Status> statuses(world_size);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < world_size; ++rank) {
    threads.emplace_back([&, rank] { statuses[rank] = rank_main(std::move(coordinators[rank])); });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  return statuses;
}

// Leaves the job for good before the first word at which `dies`, asked before each, says so.
class MortalCoordinator : public Coordinator {
 public:
  MortalCoordinator(std::unique_ptr<Coordinator> coordinator, std::function<bool()> dies)
      : rank_(coordinator->rank()),
        world_size_(coordinator->world_size()),
        coordinator_(std::move(coordinator)),
        dies_(std::move(dies)) {}

  int rank() const override { return rank_; }
  int world_size() const override { return world_size_; }
  absl::Status Barrier(absl::string_view name, absl::Duration timeout) override {
    return Dead() ? Gone() : coordinator_->Barrier(name, timeout);
  }
  absl::StatusOr<std::string> Broadcast(absl::string_view name, const std::string& bytes, int root,
                                        absl::Duration timeout) override {
    if (Dead()) {
      return Gone();
    }
    return coordinator_->Broadcast(name, bytes, root, timeout);
  }
  absl::StatusOr<std::vector<std::string>> AllGather(absl::string_view name, const std::string& bytes,
                                                     absl::Duration timeout) override {
    if (Dead()) {
      return Gone();
    }
    return coordinator_->AllGather(name, bytes, timeout);
  }

 private:
  bool Dead() {
    if (coordinator_ != nullptr && dies_()) {
      coordinator_.reset();
    }
    return coordinator_ == nullptr;
  }
  static absl::Status Gone() { return absl::CancelledError("this rank is dead"); }

  const int rank_;
  const int world_size_;
  std::unique_ptr<Coordinator> coordinator_;
  const std::function<bool()> dies_;
};

inline CheckpointerOptions DistributedOptions(Coordinator& coordinator) {
  CheckpointerOptions options;
  options.format = "distributed";
  options.save.coordinator = &coordinator;
  options.save.coordination_timeout = absl::Seconds(20);
  options.transfer.threads = 2;
  return options;
}

inline CheckpointMetadata MetadataOf(int64_t step) {
  CheckpointMetadata metadata;
  metadata.mutable_training()->set_step(step);
  return metadata;
}

inline void AddRandom(const std::string& name, DType dtype, Dims shape, uint64_t seed, MemorySource* state) {
  std::mt19937_64 random(seed);
  std::vector<char> bytes(NumElements(shape) * DTypeBytes(dtype));
  for (char& byte : bytes) {
    byte = static_cast<char>(random());
  }
  state->Add(name, dtype, std::move(shape), bytes);
}

// Shapes that do not divide evenly, elements of three sizes, a scalar and a tensor without elements.
inline std::unique_ptr<MemorySource> SmallState(uint64_t seed) {
  auto state = std::make_unique<MemorySource>();
  int64_t i = 0;
  for (const Dims& shape : {Dims{31, 8}, Dims{7}, Dims{}, Dims{5, 4, 6}, Dims{1, 40}, Dims{0, 3}}) {
    const std::string name = absl::StrCat("decoder.", i, ".weight");
    AddRandom(name, i % 2 == 0 ? DType::kBF16 : DType::kF32, shape, seed * 100 + i, state.get());
    AddRandom(name + "/exp_avg", DType::kF32, shape, seed * 100 + 50 + i, state.get());
    ++i;
  }
  AddRandom("step_count", DType::kI64, {3}, seed, state.get());
  return state;
}

}  // namespace waypoint

#endif  // TESTS_CHECKPOINT_FORMAT_DISTRIBUTED_JOB_H_
