// Runs that find what an earlier one left, and no checkpoint to continue it from.

#include "engine/run_history.h"

#include <sys/wait.h>
#include <unistd.h>

#include <functional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/trainer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/job_run.h"
#include "tests/engine/tiny_run.h"
#include "tests/testing/directory_contents.h"
#include "tests/testing/status_matchers.h"

namespace waypoint::engine {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;

FileSystem& Disk() { return PosixFileSystem(); }

class LostRunTest : public ::testing::Test {
 protected:
  void SetUp() override {
    directory_ = FreshDirectory(absl::StrCat("lost_", ::testing::UnitTest::GetInstance()->current_test_info()->name()));
    run_ = directory_ + "/run";
    config_ = TinyConfig(run_, TextFile(directory_), 4) + " export { format: \"llama\" interval: 2 }";
    options_.print = [this](const std::string& line) { absl::StrAppend(&lines_, line, "\n"); };
  }

  std::string directory_;
  std::string run_;
  std::string config_;
  std::string lines_;
  TrainerOptions options_;
};

TEST_F(LostRunTest, ARunWhoseCheckpointsAreGoneIsRefusedAndLeftAsItIs) {
  ASSERT_OK(RunTraining({config_}, Quiet()));
  const std::vector<std::function<void()>> losses = {
      // Moved.
      [&] { ASSERT_OK(Disk().Rename(run_ + "/checkpoint", directory_ + "/elsewhere")); },
      // A disk that is not mounted.
      [&] { ASSERT_OK(Disk().MakeDirectory(run_ + "/checkpoint")); },
      // Its checkpoints alone.
      [&] {
        ASSERT_OK(RemoveTree(Disk(), run_ + "/checkpoint"));
        ASSERT_OK(Disk().Rename(directory_ + "/elsewhere", run_ + "/checkpoint"));
        ASSERT_OK(Disk().Rename(run_ + "/checkpoint/step-00000004", directory_ + "/step-00000004"));
      },
  };
  for (const auto& lose : losses) {
    lose();
    const DirectoryContents before = ReadContents(Disk(), run_);

    EXPECT_THAT(RunTraining({config_, "steps: 2"}, Quiet()),
                IsKind(ErrorKind::kExists,
                       AllOf(HasSubstr(run_), HasSubstr("metrics.jsonl up to step 4"), HasSubstr("2 exports"),
                             HasSubstr("llama/step-00000004"), HasSubstr("start_over: true"))));

    EXPECT_TRUE(ReadContents(Disk(), run_) == before);
  }

  // Brought back, it goes on.
  ASSERT_OK(Disk().Rename(directory_ + "/step-00000004", run_ + "/checkpoint/step-00000004"));
  ASSERT_OK_AND_ASSIGN(const FinishedRun run, RunTraining({config_, "steps: 5"}, Quiet()));
  EXPECT_EQ(run.report.first_step, 4);
}

TEST_F(LostRunTest, EachPartOfAHistoryIsOne) {
  ASSERT_OK(RunTraining({config_}, Quiet()));
  ASSERT_OK(RemoveTree(Disk(), run_ + "/checkpoint"));
  ASSERT_OK(RemoveTree(Disk(), run_ + "/export"));
  EXPECT_THAT(RunTraining({config_}, Quiet()), IsKind(ErrorKind::kExists, HasSubstr("metrics.jsonl up to step 4")));
  ASSERT_OK(RemoveTree(Disk(), run_ + "/metrics.jsonl"));
  EXPECT_OK(RunTraining({config_}, Quiet()));

  ASSERT_OK(RemoveTree(Disk(), run_ + "/checkpoint"));
  ASSERT_OK(RemoveTree(Disk(), run_ + "/metrics.jsonl"));
  EXPECT_THAT(RunTraining({config_}, Quiet()), IsKind(ErrorKind::kExists, HasSubstr("exports")));
  ASSERT_OK(RemoveTree(Disk(), run_ + "/export"));
  for (const char* remains : {"step-00000004", "step-00000004.damaged", "step-4.old"}) {
    ASSERT_OK(MakeDirectories(Disk(), JoinPath(run_ + "/checkpoint", remains)));
    EXPECT_THAT(RunTraining({config_}, Quiet()), IsKind(ErrorKind::kExists, HasSubstr(remains)));
    ASSERT_OK(RemoveTree(Disk(), run_ + "/checkpoint"));
  }
  EXPECT_OK(RunTraining({config_}, Quiet()));
}

TEST_F(LostRunTest, StartOverKeepsWhatIsThere) {
  ASSERT_OK(RunTraining({config_}, Quiet()));
  ASSERT_OK(RemoveTree(Disk(), run_ + "/checkpoint"));
  const DirectoryContents before = ReadContents(Disk(), run_);

  ASSERT_OK_AND_ASSIGN(const FinishedRun run, RunTraining({config_, "start_over: true steps: 3"}, options_));

  EXPECT_EQ(run.report.first_step, 0);
  EXPECT_THAT(lines_, AllOf(HasSubstr("note: start_over: the run begins anew"), HasSubstr("llama/step-00000004"),
                            HasSubstr("kept as \"" + run_ + "/metrics.jsonl.before-1\"")));
  DirectoryContents after = ReadContents(Disk(), run_);
  EXPECT_EQ(after.at("metrics.jsonl.before-1"), before.at("metrics.jsonl"));
  for (const auto& [name, bytes] : before) {
    // Locks say who had them last.
    EXPECT_TRUE(name == "metrics.jsonl" || absl::EndsWith(name, "/.lock") || after.at(name) == bytes) << name;
  }
  EXPECT_EQ(MetricsLog::Look(run_ + "/metrics.jsonl").value().last_step, 3);

  // It is no command to begin anew each time.
  ASSERT_OK_AND_ASSIGN(const FinishedRun next, RunTraining({config_, "start_over: true"}, options_));
  EXPECT_EQ(next.report.first_step, 3);
  EXPECT_THAT(lines_, HasSubstr("start_over: the run has a whole checkpoint, and continues"));
}

// As a scheduler restarts it.
TEST_F(LostRunTest, ARunThatWasKilledBeforeItsFirstCheckpointBeginsAnew) {
  for (int attempt = 0; attempt < 3; ++attempt) {
    const pid_t child = fork();
    if (child == 0) {
      TrainerOptions options = Quiet();
      options.on_step = [](const StepMetrics& metrics) {
        if (metrics.step == 3) {
          _exit(0);
        }
      };
      RunTraining({config_}, options).status().IgnoreError();
      _exit(1);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_EQ(status, 0) << attempt;
  }
  EXPECT_EQ(MetricsLog::Look(run_ + "/metrics.jsonl").value().last_step, 3);

  ASSERT_OK_AND_ASSIGN(const FinishedRun run, RunTraining({config_}, options_));

  EXPECT_EQ(run.report.first_step, 0);
  EXPECT_THAT(lines_, AllOf(HasSubstr("note: an earlier run"), HasSubstr("was ended before its first checkpoint")));
  EXPECT_EQ(MetricsLog::Look(run_ + "/metrics.jsonl").value().lines, 4);
}

TEST_F(LostRunTest, AMetricsFileOfSomebodyElseIsNeverCut) {
  ASSERT_OK(MakeDirectories(Disk(), run_));
  const std::string foreign = "epoch 1: accuracy 0.5\n";
  ASSERT_OK(WriteSmallFile(Disk(), run_ + "/metrics.jsonl", foreign));
  for (const std::string more : {"", "start_over: true"}) {
    EXPECT_THAT(RunTraining({config_, more}, Quiet()),
                IsKind(ErrorKind::kExists, AllOf(HasSubstr(run_ + "/metrics.jsonl"), HasSubstr("no history of this"))));
  }
  EXPECT_EQ(ReadContents(Disk(), run_).at("metrics.jsonl"), foreign);

  // Nor when the run has checkpoints.
  ASSERT_OK(RemoveTree(Disk(), run_ + "/metrics.jsonl"));
  ASSERT_OK(RunTraining({config_}, Quiet()));
  Rewrite(Disk(), run_ + "/metrics.jsonl", foreign);
  EXPECT_THAT(RunTraining({config_, "steps: 5"}, Quiet()), IsKind(ErrorKind::kExists));
  EXPECT_EQ(ReadContents(Disk(), run_).at("metrics.jsonl"), foreign);

  // One of its own that ends before is continued, and told.
  Rewrite(Disk(), run_ + "/metrics.jsonl", MetricsLine({2, 1, 1, 1, 1, 1}) + "\n");
  ASSERT_OK(RunTraining({config_, "steps: 5"}, options_));
  EXPECT_THAT(lines_, HasSubstr("metrics.jsonl\" ends at step 2, the run continues from step 4"));
}

TEST_F(LostRunTest, LinksAreFollowedOrNamed) {
  ASSERT_OK(RunTraining({config_, "checkpoint { interval: 2 }"}, Quiet()));
  const std::string newest = run_ + "/checkpoint/step-00000004";
  ASSERT_OK(Disk().Rename(newest, directory_ + "/large_disk"));
  ASSERT_EQ(symlink((directory_ + "/large_disk").c_str(), newest.c_str()), 0);
  ASSERT_OK_AND_ASSIGN(const FinishedRun followed, RunTraining({config_, "steps: 5"}, Quiet()));
  EXPECT_EQ(followed.report.first_step, 4);

  ASSERT_OK(RemoveTree(Disk(), run_ + "/checkpoint/step-00000005"));
  ASSERT_OK(RemoveTree(Disk(), directory_ + "/large_disk"));
  ASSERT_OK_AND_ASSIGN(const FinishedRun older, RunTraining({config_, "steps: 5"}, options_));
  EXPECT_EQ(older.report.first_step, 2);
  EXPECT_THAT(lines_, HasSubstr("step-00000004\" is a link to nothing"));

  ASSERT_OK(Disk().Rename(run_ + "/checkpoint", directory_ + "/checkpoints"));
  ASSERT_EQ(symlink((directory_ + "/checkpoints").c_str(), (run_ + "/checkpoint").c_str()), 0);
  ASSERT_OK_AND_ASSIGN(const FinishedRun folder, RunTraining({config_, "steps: 6"}, Quiet()));
  EXPECT_EQ(folder.report.first_step, 5);
  ASSERT_OK(Disk().Rename(directory_ + "/checkpoints", directory_ + "/not_mounted"));
  EXPECT_THAT(RunTraining({config_, "start_over: true"}, Quiet()),
              IsKind(ErrorKind::kIo, AllOf(HasSubstr(run_ + "/checkpoint"), HasSubstr("link to nothing"))));
}

TEST(LostJobTest, AllRanksRefuseAndAllBeginOver) {
  const std::string directory = FreshDirectory("lost_job");
  const std::string config = JobConfig(directory + "/run", TextFile(directory), 2);
  ASSERT_THAT(RunJob(2, {config}).statuses, Each(IsOk()));
  ASSERT_OK(RemoveTree(Disk(), directory + "/run/checkpoint"));

  const JobRun refused = RunJob(2, {config});
  EXPECT_THAT(refused.statuses[0], IsKind(ErrorKind::kExists));
  EXPECT_THAT(refused.statuses[1], IsKind(ErrorKind::kRank, HasSubstr("holds the history of a run")));
  const JobRun over = RunJob(2, {config, "start_over: true"});
  EXPECT_THAT(over.statuses, Each(IsOk()));
  EXPECT_EQ(over.reports[1].first_step, 0);
  EXPECT_EQ(MetricsLog::Look(directory + "/run/metrics.jsonl.before-1").value().last_step, 2);
}

}  // namespace
}  // namespace waypoint::engine
