#ifndef TESTS_CHECKPOINT_FORMAT_SHARED_SHARED_JOB_H_
#define TESTS_CHECKPOINT_FORMAT_SHARED_SHARED_JOB_H_

// Jobs of threads that write common files.

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/coordination/thread_exchange.h"
#include "checkpoint/plan/job_layout.h"
#include "checkpoint/storage/memory_file_system.h"
#include "gmock/gmock.h"
#include "tests/checkpoint/format/distributed/job.h"
#include "tests/testing/directory_contents.h"
#include "tests/testing/status_matchers.h"

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

  SaveOptions Options(int rank, SaveOptions options = {}) const {
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

// What is saved.
struct Model {
  CheckpointMetadata metadata;
  TensorSource* tensors = nullptr;
  std::vector<Asset> assets;
};

inline DirectoryContents SavedByOne(const Model& model, const WriteOptions& options) {
  MemoryFileSystem fs;
  EXPECT_OK(WriteCheckpoint(fs, "/out", options, model.metadata, *model.tensors, model.assets));
  return ReadContents(fs, "/out");
}

// Longest descriptor of a zip entry: what is completed behind blocks that were written without it.
inline constexpr int64_t kDescriptorBytes = 24;

// Every byte of every file was written once, but for descriptors.
inline void ExpectWrittenOnce(const std::vector<std::unique_ptr<FaultFileSystem>>& file_systems,
                              const DirectoryContents& contents) {
  std::map<std::string, std::map<int64_t, int64_t>> ranges;  // file -> begin -> bytes
  for (const auto& fs : file_systems) {
    for (const FileCall& call : fs->trace()) {
      const bool descriptor = call.offset > 0 && call.bytes <= kDescriptorBytes;
      if (call.kind == FileCall::kWrite && call.bytes > 0 && !descriptor) {
        EXPECT_TRUE(ranges[BaseName(call.path)].emplace(call.offset, call.bytes).second) << call.path;
      }
    }
  }
  for (const auto& [name, bytes] : contents) {
    int64_t end = 0;
    for (const auto& [begin, size] : ranges[BaseName(name)]) {
      EXPECT_EQ(begin, end) << name;
      end = begin + size;
    }
    EXPECT_EQ(end, static_cast<int64_t>(bytes.size())) << name;
  }
}

// The job's files, after checks of what was written and held.
inline DirectoryContents SavedByMany(const Model& model, const WriteOptions& options, Layout layout, int world_size) {
  MemoryFileSystem disk;
  std::vector<std::unique_ptr<FaultFileSystem>> file_systems;
  for (int rank = 0; rank < world_size; ++rank) {
    file_systems.push_back(std::make_unique<FaultFileSystem>(disk));
  }
  SharedJob job(NewThreadCoordinators(world_size));
  std::vector<TransferStats> stats(world_size);
  const auto statuses = job.Run([&](int rank) {
    RankSource mine(*model.tensors, layout, rank, world_size);
    WriteOptions own = options;
    own.save = job.Options(rank, options.save);
    const auto written = WriteCheckpoint(*file_systems[rank], "/out", own, model.metadata, mine, model.assets);
    stats[rank] = written.value_or(TransferStats());
    return written.status();
  });
  EXPECT_THAT(statuses, ::testing::Each(IsOk()));
  const DirectoryContents contents = ReadContents(disk, "/out");
  ExpectWrittenOnce(file_systems, contents);
  std::vector<Manifest> held_by_rank;
  for (int rank = 0; rank < world_size; ++rank) {
    held_by_rank.push_back(RankManifest(model.tensors->manifest(), layout, rank, world_size));
  }
  // Else nothing crosses ranks.
  if (!JobLayout::Create(held_by_rank)->all_hold_all()) {
    for (const TransferStats& held : stats) {
      EXPECT_LE(held.peak_bytes_in_flight, int64_t{4} << 20);
    }
  }
  return contents;
}

}  // namespace waypoint

#endif  // TESTS_CHECKPOINT_FORMAT_SHARED_SHARED_JOB_H_
