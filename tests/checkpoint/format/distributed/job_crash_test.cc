// Every fault at every call of one rank of a job that saves: the root has the old checkpoint or the new one, whole, all
// ranks return, and those that fail name the rank that did.

#include <iostream>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "checkpoint/base/registry.h"
#include "checkpoint/storage/fault_file_system.h"
#include "checkpoint/storage/memory_file_system.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/checkpoint/format/distributed/job.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {
namespace {

using ::testing::HasSubstr;

constexpr int kRanks = 3;
constexpr char kRoot[] = "/run";

// Leaves the job before its next word once its file system was killed.
class MortalCoordinator : public Coordinator {
 public:
  MortalCoordinator(std::unique_ptr<Coordinator> coordinator, const FaultFileSystem& fs, bool mortal)
      : rank_(coordinator->rank()), coordinator_(std::move(coordinator)), fs_(fs), mortal_(mortal) {}

  int rank() const override { return rank_; }
  int world_size() const override { return kRanks; }
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
    if (mortal_ && fs_.fired()) {
      coordinator_.reset();
    }
    return coordinator_ == nullptr;
  }
  static absl::Status Gone() { return absl::CancelledError("this rank is dead"); }

  const int rank_;
  std::unique_ptr<Coordinator> coordinator_;
  const FaultFileSystem& fs_;
  const bool mortal_;
};

// Saves as rank main; `faulty` meets the fault.
std::vector<absl::Status> Save(FileSystem& disk, TensorSource& state, int64_t step, int faulty, Fault fault,
                               int64_t at_call, bool* reached, bool* fired) {
  std::vector<std::unique_ptr<FaultFileSystem>> file_systems;
  for (int rank = 0; rank < kRanks; ++rank) {
    file_systems.push_back(std::make_unique<FaultFileSystem>(disk, rank == faulty ? fault : Fault::kNone, at_call));
  }
  const bool mortal = fault == Fault::kKillBefore || fault == Fault::kKillAfter;
  std::vector<absl::Status> statuses = RunJob(kRanks, [&](std::unique_ptr<Coordinator> coordinator) {
    const int rank = coordinator->rank();
    MortalCoordinator mine(std::move(coordinator), *file_systems[rank], mortal);
    RankSource source(state, TensorParallelZero, rank, kRanks);
    CheckpointerOptions options = DistributedOptions(mine);
    options.transfer.threads = 1;
    options.retention.keep = 1;
    return CheckpointRoot(*file_systems[rank], kRoot).Save(options, MetadataOf(step), source).status();
  });
  *reached = faulty >= 0 && file_systems[faulty]->calls() > at_call;
  *fired = faulty >= 0 && file_systems[faulty]->fired();
  return statuses;
}

// The step of the newest checkpoint, which must be whole; 0 when there is none.
int64_t CheckLatest(FileSystem& fs, MemorySource& old_state, MemorySource& new_state) {
  const auto latest = CheckpointRoot(fs, kRoot).Latest();
  EXPECT_OK(latest);
  if (!latest.ok() || !latest->has_value()) {
    return 0;
  }
  auto opened = Registry<CheckpointFormat>::Global().Find("distributed")->Open(fs, (*latest)->path, {});
  EXPECT_OK(opened);
  if (!opened.ok()) {
    return 0;
  }
  MemorySource& expected = (*latest)->step == 1 ? old_state : new_state;
  RankSink sink(expected.manifest(), Replicated, 0, 1);
  EXPECT_OK(Restore(*opened, sink, {}));
  EXPECT_EQ(sink.Difference(expected), "");
  return (*latest)->step;
}

class JobCrashTest : public ::testing::TestWithParam<int> {};

TEST_P(JobCrashTest, OldOrNewIsWholeAndTheRankIsNamed) {
  const int faulty = GetParam();
  const std::unique_ptr<MemorySource> old_state = SmallState(1);
  const std::unique_ptr<MemorySource> new_state = SmallState(2);
  MemoryFileSystem before;
  bool reached = false;
  bool fired = false;
  for (const absl::Status& status : Save(before, *old_state, 1, -1, Fault::kNone, 0, &reached, &fired)) {
    ASSERT_OK(status);
  }
  int faults = 0;
  int failures = 0;
  for (const Fault fault : kAllFaults) {
    reached = true;
    for (int64_t call = 0; reached; ++call) {
      const std::unique_ptr<MemoryFileSystem> disk = before.Crash(DiskState::kEverything);
      const std::vector<absl::Status> statuses = Save(*disk, *new_state, 2, faulty, fault, call, &reached, &fired);
      if (!fired) {
        continue;
      }
      ++faults;
      SCOPED_TRACE(absl::StrCat(FaultName(fault), " at call ", call, ": ", statuses[faulty].ToString()));
      bool any_ok = false;
      for (int rank = 0; rank < kRanks; ++rank) {
        any_ok = any_ok || statuses[rank].ok();
        if (rank != faulty && !statuses[rank].ok()) {
          ++failures;
          // Who was still writing when rank 0 gave up may have a failure of its own, and says what came before.
          EXPECT_THAT(std::string(statuses[rank].message()), HasSubstr(absl::StrCat("rank ", faulty)));
        }
      }
      for (const DiskState state : {DiskState::kEverything, DiskState::kOnlySynced, DiskState::kNamesOnly}) {
        const int64_t step = CheckLatest(*disk->Crash(state), *old_state, *new_state);
        EXPECT_TRUE(any_ok ? step == 2 : step == 1 || step == 2) << step;
      }
      if (call % 4 == 0) {
        for (const absl::Status& status : Save(*disk, *new_state, 3, -1, Fault::kNone, 0, &reached, &fired)) {
          EXPECT_OK(status);
        }
        EXPECT_EQ(CheckLatest(*disk, *old_state, *new_state), 3);
        reached = true;
      }
      if (HasFailure()) {
        return;
      }
    }
  }
  std::cout << faults << " faults, " << failures << " survivors were told\n";
  EXPECT_GT(faults, 50);
  EXPECT_GT(failures, 50);
}

INSTANTIATE_TEST_SUITE_P(Ranks, JobCrashTest, ::testing::Values(0, 1), ::testing::PrintToStringParamName());

TEST(JobTest, AStalledRankIsNamedAndTheOldCheckpointStays) {
  const std::unique_ptr<MemorySource> state = SmallState(1);
  MemoryFileSystem disk;

  const std::vector<absl::Status> statuses = RunJob(kRanks, [&](std::unique_ptr<Coordinator> coordinator) {
    if (coordinator->rank() == 2) {
      absl::SleepFor(absl::Seconds(1));  // its coordinator lives: it neither comes nor leaves
      return absl::OkStatus();
    }
    RankSource source(*state, Rows, coordinator->rank(), kRanks);
    CheckpointerOptions options = DistributedOptions(*coordinator);
    options.save.coordination_timeout = absl::Milliseconds(200);
    return CheckpointRoot(disk, kRoot).Save(options, MetadataOf(1), source).status();
  });

  EXPECT_THAT(statuses[0], IsKind(ErrorKind::kRank, HasSubstr("rank 2 did not come")));
  EXPECT_THAT(statuses[1], IsKind(ErrorKind::kRank, HasSubstr("rank 2 did not come")));
  EXPECT_THAT(CheckpointRoot(disk, kRoot).List().value(), ::testing::IsEmpty());
}

TEST(JobTest, ASecondJobInTheSameDirectoryIsRefusedOnAllRanks) {
  const std::unique_ptr<MemorySource> state = SmallState(1);
  MemoryFileSystem disk;
  ASSERT_OK(MakeDirectories(disk, kRoot));
  ASSERT_OK_AND_ASSIGN(const auto lock, disk.Lock(JoinPath(kRoot, ".lock")));
  bool reached = false;
  bool fired = false;

  const auto statuses = Save(disk, *state, 1, -1, Fault::kNone, 0, &reached, &fired);

  EXPECT_THAT(statuses[0], IsKind(ErrorKind::kLocked));
  EXPECT_THAT(statuses[1], IsKind(ErrorKind::kRank, HasSubstr("rank 0")));
}

}  // namespace
}  // namespace waypoint
