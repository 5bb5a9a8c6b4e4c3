// Every fault at every call of one rank of a job that saves: the root has the old checkpoint or the new one, whole, all
// ranks return, and those that fail name the rank that did.

#include <iostream>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "checkpoint/base/registry.h"
#include "checkpoint/storage/fault_file_system.h"
#include "checkpoint/storage/memory_file_system.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/checkpoint/format/distributed/job.h"
#include "tests/checkpoint/format/shared/shared_job.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {
namespace {

using ::testing::HasSubstr;

constexpr int kRanks = 3;
constexpr char kRoot[] = "/run";

// Saves as all ranks; `faulty` meets the fault.
std::vector<absl::Status> Save(const std::string& format, FileSystem& disk, TensorSource& state, int64_t step,
                               int faulty, Fault fault, int64_t at_call, bool* reached, bool* fired) {
  std::vector<std::unique_ptr<FaultFileSystem>> file_systems;
  for (int rank = 0; rank < kRanks; ++rank) {
    file_systems.push_back(std::make_unique<FaultFileSystem>(disk, rank == faulty ? fault : Fault::kNone, at_call));
  }
  const bool mortal = fault == Fault::kKillBefore || fault == Fault::kKillAfter;
  std::vector<std::unique_ptr<Coordinator>> coordinators;
  for (std::unique_ptr<Coordinator>& coordinator : NewThreadCoordinators(kRanks)) {
    const FaultFileSystem& fs = *file_systems[coordinator->rank()];
    coordinators.push_back(
        std::make_unique<MortalCoordinator>(std::move(coordinator), [&fs, mortal] { return mortal && fs.fired(); }));
  }
  SharedJob job(std::move(coordinators));
  const std::vector<absl::Status> statuses = job.Run([&](int rank) {
    RankSource source(state, TensorParallelZero, rank, kRanks);
    CheckpointerOptions options;
    options.format = format;
    options.save = job.Options(rank);
    options.transfer.threads = 1;
    options.retention.keep = 1;
    return CheckpointRoot(*file_systems[rank], kRoot).Save(options, MetadataOf(step), source).status();
  });
  *reached = faulty >= 0 && file_systems[faulty]->calls() > at_call;
  *fired = faulty >= 0 && file_systems[faulty]->fired();
  return statuses;
}

// The step of the newest checkpoint, which must be whole; 0 when there is none.
int64_t CheckLatest(const std::string& format, FileSystem& fs, MemorySource& old_state, MemorySource& new_state) {
  const auto latest = CheckpointRoot(fs, kRoot).Latest();
  EXPECT_OK(latest);
  if (!latest.ok() || !latest->has_value()) {
    return 0;
  }
  auto opened = Registry<CheckpointFormat>::Global().Find(format)->Open(fs, (*latest)->path, {});
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

class JobCrashTest : public ::testing::TestWithParam<std::tuple<std::string, int>> {};

TEST_P(JobCrashTest, OldOrNewIsWholeAndTheRankIsNamed) {
  const auto& [format, faulty] = GetParam();
  const std::unique_ptr<MemorySource> old_state = SmallState(1);
  const std::unique_ptr<MemorySource> new_state = SmallState(2);
  MemoryFileSystem before;
  bool reached = false;
  bool fired = false;
  for (const absl::Status& status : Save(format, before, *old_state, 1, -1, Fault::kNone, 0, &reached, &fired)) {
    ASSERT_OK(status);
  }
  int faults = 0;
  int failures = 0;
  for (const Fault fault : kAllFaults) {
    reached = true;
    for (int64_t call = 0; reached; ++call) {
      const std::unique_ptr<MemoryFileSystem> disk = before.Crash(DiskState::kEverything);
      const std::vector<absl::Status> statuses =
          Save(format, *disk, *new_state, 2, faulty, fault, call, &reached, &fired);
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
        const int64_t step = CheckLatest(format, *disk->Crash(state), *old_state, *new_state);
        EXPECT_TRUE(any_ok ? step == 2 : step == 1 || step == 2) << step;
      }
      if (call % 4 == 0) {
        for (const absl::Status& status : Save(format, *disk, *new_state, 3, -1, Fault::kNone, 0, &reached, &fired)) {
          EXPECT_OK(status);
        }
        EXPECT_EQ(CheckLatest(format, *disk, *old_state, *new_state), 3);
        reached = true;
      }
      if (HasFailure()) {
        return;
      }
    }
  }
  std::cout << faults << " faults, " << failures << " survivors were told\n";
  EXPECT_GT(faults, 20);
  EXPECT_GT(failures, 20);
}

INSTANTIATE_TEST_SUITE_P(Ranks, JobCrashTest,
                         ::testing::Combine(::testing::Values("distributed", "native"), ::testing::Values(0, 1)),
                         [](const auto& info) {
                           return absl::StrCat(std::get<0>(info.param), std::get<1>(info.param));
                         });

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

  const auto statuses = Save("distributed", disk, *state, 1, -1, Fault::kNone, 0, &reached, &fired);

  EXPECT_THAT(statuses[0], IsKind(ErrorKind::kLocked));
  EXPECT_THAT(statuses[1], IsKind(ErrorKind::kRank, HasSubstr("rank 0")));
}

}  // namespace
}  // namespace waypoint
