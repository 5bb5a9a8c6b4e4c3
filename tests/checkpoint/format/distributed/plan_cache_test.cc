// A job that saves again without a change of what ranks hold does not plan again.

#include "checkpoint/storage/memory_file_system.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/checkpoint/format/distributed/job.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {
namespace {

using ::testing::Each;

// Counts what this rank sends.
class CountingCoordinator : public Coordinator {
 public:
  explicit CountingCoordinator(std::unique_ptr<Coordinator> coordinator) : coordinator_(std::move(coordinator)) {}

  int rank() const override { return coordinator_->rank(); }
  int world_size() const override { return coordinator_->world_size(); }
  absl::Status Barrier(absl::string_view name, absl::Duration timeout) override {
    ++messages_;
    return coordinator_->Barrier(name, timeout);
  }
  absl::StatusOr<std::string> Broadcast(absl::string_view name, const std::string& bytes, int root,
                                        absl::Duration timeout) override {
    Count(name, bytes);
    return coordinator_->Broadcast(name, bytes, root, timeout);
  }
  absl::StatusOr<std::vector<std::string>> AllGather(absl::string_view name, const std::string& bytes,
                                                     absl::Duration timeout) override {
    Count(name, bytes);
    return coordinator_->AllGather(name, bytes, timeout);
  }

  struct Counts {
    int messages = 0;
    int64_t bytes = 0;
    int gathers_of_layouts = 0;
  };
  Counts Take() { return {std::exchange(messages_, 0), std::exchange(bytes_, 0), std::exchange(layouts_, 0)}; }

 private:
  void Count(absl::string_view name, const std::string& bytes) {
    ++messages_;
    bytes_ += static_cast<int64_t>(bytes.size());
    layouts_ += name == "what ranks hold" ? 1 : 0;
  }

  const std::unique_ptr<Coordinator> coordinator_;
  int messages_ = 0;
  int64_t bytes_ = 0;
  int layouts_ = 0;
};

struct Saved {
  std::vector<CountingCoordinator::Counts> counts;  // by save, of rank 0
  std::vector<std::string> differences;
};

// Two ranks save once for each pair of layouts.
Saved SaveWith(const std::vector<std::pair<Layout, Layout>>& layouts) {
  const std::unique_ptr<MemorySource> state = SmallState(1);
  MemoryFileSystem disk;
  Saved saved;
  const auto statuses = RunJob(2, [&](std::unique_ptr<Coordinator> coordinator) -> absl::Status {
    CountingCoordinator mine(std::move(coordinator));
    CheckpointRoot root(disk, "/run");
    int64_t step = 0;
    for (const auto& [first, second] : layouts) {
      RankSource source(*state, mine.rank() == 0 ? first : second, mine.rank(), 2);
      const auto report = root.Save(DistributedOptions(mine), MetadataOf(++step), source);
      if (!report.ok()) {
        return report.status();
      }
      if (mine.rank() == 0) {
        saved.counts.push_back(mine.Take());
      }
    }
    return absl::OkStatus();
  });
  EXPECT_THAT(statuses, Each(IsOk()));
  const auto checkpoints = CheckpointRoot(disk, "/run").List();
  for (const CheckpointRef& ref : *checkpoints) {
    auto opened = (*DetectFormat(disk, ref.path))->Open(disk, ref.path, {});
    RankSink sink(state->manifest(), Replicated, 0, 1);
    EXPECT_OK(Restore(*opened, sink, {}));
    saved.differences.push_back(sink.Difference(*state));
  }
  return saved;
}

TEST(PlanCacheTest, ASecondSaveOfTheSameLayoutGathersNothing) {
  const Saved saved = SaveWith({{Rows, Rows}, {Rows, Rows}, {Rows, Rows}});

  EXPECT_EQ(saved.counts[0].gathers_of_layouts, 1);
  EXPECT_EQ(saved.counts[1].gathers_of_layouts, 0);
  EXPECT_EQ(saved.counts[2].gathers_of_layouts, 0);
  EXPECT_EQ(saved.counts[1].messages, saved.counts[0].messages - 1);
  EXPECT_LT(saved.counts[1].bytes, saved.counts[0].bytes);
  EXPECT_THAT(saved.differences, ::testing::ElementsAre("", "", ""));
}

TEST(PlanCacheTest, AChangeOnAnyRankPlansAgain) {
  const Saved saved = SaveWith({{Rows, Rows}, {Columns, Columns}, {Columns, Columns}, {Columns, Replicated}});

  EXPECT_EQ(saved.counts[1].gathers_of_layouts, 1);
  EXPECT_EQ(saved.counts[2].gathers_of_layouts, 0);
  EXPECT_EQ(saved.counts[3].gathers_of_layouts, 1);
  EXPECT_THAT(saved.differences, ::testing::ElementsAre("", "", "", ""));
}

}  // namespace
}  // namespace waypoint
