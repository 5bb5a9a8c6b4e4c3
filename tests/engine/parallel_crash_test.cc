// A job of many ranks whose save fails, or that dies while it saves, goes on from the old checkpoint or from the new
// one, on any number of ranks.

#include "absl/strings/str_cat.h"
#include "checkpoint/checkpointer/checkpointer.h"
#include "checkpoint/storage/fault_file_system.h"
#include "checkpoint/storage/memory_file_system.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/job_run.h"
#include "tests/engine/tiny_run.h"
#include "tests/testing/status_matchers.h"

namespace waypoint::engine {
namespace {

using ::testing::Each;
using ::testing::Not;

constexpr int kRanks = 3;

class ParallelCrashTest : public ::testing::TestWithParam<Fault> {
 protected:
  void SetUp() override {
    directory_ = FreshDirectory(absl::StrCat("parallel_crash_", FaultName(GetParam())));
    data_ = TextFile(directory_);
    one_step_ = Run(before_, 1);
    ASSERT_THAT(one_step_.statuses, Each(IsOk()));
    const std::unique_ptr<MemoryFileSystem> undisturbed = before_.Crash(DiskState::kOnlySynced);
    two_steps_ = Run(*undisturbed, 2);
    ASSERT_THAT(two_steps_.statuses, Each(IsOk()));
  }

  JobRun Run(FileSystem& fs, int64_t steps, int ranks = kRanks) {
    JobOptions options;
    options.fs = &fs;
    // A constant schedule, so that the number of steps changes nothing else.
    return RunJob(ranks,
                  {JobConfig(directory_ + "/run", data_, steps),
                   "schedule { decay_steps: 9 } mesh { zero: OPTIMIZER } checkpoint { interval: 1 keep: 1 }"},
                  options);
  }

  std::string directory_;
  std::string data_;
  MemoryFileSystem before_;
  JobRun one_step_;
  JobRun two_steps_;
};

TEST_P(ParallelCrashTest, OldOrNewIsThereAndAllRanksEndAlike) {
  int64_t failures = 0;
  // Only some calls sync.
  const int64_t stride = GetParam() == Fault::kSyncEio ? 2 : 5;
  for (int64_t k = 0; k < 500; k += stride) {
    SCOPED_TRACE(absl::StrCat(FaultName(GetParam()), " at call ", k));
    const std::unique_ptr<MemoryFileSystem> memory = before_.Crash(DiskState::kOnlySynced);
    FaultFileSystem fs(*memory, GetParam(), k);
    const JobRun run = Run(fs, 2);
    if (k >= fs.calls()) {
      break;
    }
    if (run.statuses[0].ok()) {
      ASSERT_THAT(run.statuses, Each(IsOk()));
    } else {
      ASSERT_THAT(run.statuses, Each(Not(IsOk())));
      ++failures;
    }

    const std::unique_ptr<MemoryFileSystem> after = memory->Crash(DiskState::kOnlySynced);
    ASSERT_OK_AND_ASSIGN(const auto latest, CheckpointRoot(*after, directory_ + "/run/checkpoint").Latest());
    ASSERT_TRUE(latest.has_value());
    const JobRun again = Run(*after, latest->step, /*ranks=*/2);
    ASSERT_THAT(again.statuses, Each(IsOk()));
    ASSERT_EQ(DifferenceOf(again.start, (latest->step == 1 ? one_step_ : two_steps_).end), "");
  }
  EXPECT_GT(failures, 0);
}

INSTANTIATE_TEST_SUITE_P(Faults, ParallelCrashTest,
                         ::testing::Values(Fault::kKillAfter, Fault::kFullDisk, Fault::kSyncEio));

}  // namespace
}  // namespace waypoint::engine
