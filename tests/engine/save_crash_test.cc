// A trainer that dies at any call of a save, with any part of what was not synced lost, resumes from the old checkpoint
// or from the new one, and ends where the undisturbed run ends.

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "checkpoint/base/error.h"
#include "checkpoint/checkpointer/checkpointer.h"
#include "checkpoint/storage/fault_file_system.h"
#include "checkpoint/storage/memory_file_system.h"
#include "engine/trainer.h"
#include "gtest/gtest.h"
#include "tests/engine/tiny_run.h"
#include "tests/testing/status_matchers.h"

namespace waypoint::engine {
namespace {

// One layer of 8 channels: a save is a few kilobytes and the sweep stays fast.
constexpr char kSmaller[] = R"(
    model { hidden_size: 8 decoder { num_blocks: 1 fixed {
      mixer { attention { heads: 1 head_groups: 1 head_size: 8 } } mlp { dense { intermediate_size: 8 } } } } }
    data { batch_size: 1 }
    checkpoint { interval: 1 keep: 1 })";

class SaveCrashTest : public ::testing::Test {
 protected:
  void SetUp() override {
    directory_ = FreshDirectory("crash");
    data_ = TextFile(directory_);
    TrainerOptions options = Quiet();
    options.fs = &before_;
    ASSERT_OK_AND_ASSIGN(one_step_, RunTraining(Layers(1), options));
    const std::unique_ptr<MemoryFileSystem> undisturbed = before_.Crash(DiskState::kOnlySynced);
    options.fs = undisturbed.get();
    ASSERT_OK_AND_ASSIGN(two_steps_, RunTraining(Layers(2), options));
  }

  std::vector<std::string> Layers(int64_t steps) const {
    // A constant schedule, so that the number of steps changes nothing else.
    return {TinyConfig(directory_ + "/run", data_, steps), kSmaller, "schedule { decay_steps: 9 }"};
  }

  // The newest checkpoint must be one of the two, whole.
  void ExpectOldOrNew(FileSystem& fs, const std::string& when) {
    ASSERT_OK_AND_ASSIGN(const auto latest, CheckpointRoot(fs, directory_ + "/run/checkpoint").Latest());
    ASSERT_TRUE(latest.has_value()) << when;
    const TrainState& expected = (latest->step == 1 ? one_step_ : two_steps_).trainer->state();
    ASSERT_OK_AND_ASSIGN(CheckpointFormat * format, FindFormat(fs, latest->path, "native"));
    ASSERT_OK_AND_ASSIGN(OpenedCheckpoint opened, format->Open(fs, latest->path, {}));
    LiveState loaded = expected.Tensors();
    for (LiveTensor& tensor : loaded) {
      tensor.tensor = tensor.tensor.clone().fill_(-1);
    }
    ASSERT_OK_AND_ASSIGN(const auto sink, NewLiveSink(loaded));
    ASSERT_OK(Restore(opened, *sink, {}));
    EXPECT_EQ(DifferenceOf(loaded, expected.Tensors()), "") << when;
    EXPECT_EQ(opened.metadata.training().step(), latest->step) << when;
  }

  void ExpectResumable(FileSystem& fs, const std::string& when) {
    TrainerOptions options = Quiet();
    options.fs = &fs;
    ASSERT_OK_AND_ASSIGN(const FinishedRun run, RunTraining(Layers(2), options));
    EXPECT_EQ(DifferenceOf(run.trainer->state().Tensors(), two_steps_.trainer->state().Tensors()), "") << when;
  }

  std::string directory_;
  std::string data_;
  MemoryFileSystem before_;
  FinishedRun one_step_;
  FinishedRun two_steps_;
};

TEST_F(SaveCrashTest, OldOrNewSurvivesAKillAtEveryCall) {
  int64_t k = 0;
  for (;; ++k) {
    const std::unique_ptr<MemoryFileSystem> memory = before_.Crash(DiskState::kOnlySynced);
    FaultFileSystem fs(*memory, Fault::kKillAfter, k);
    TrainerOptions options = Quiet();
    options.fs = &fs;
    const absl::Status status = RunTraining(Layers(2), options).status();
    if (!fs.fired()) {
      ASSERT_OK(status);
      break;
    }
    for (const DiskState state : kAllDiskStates) {
      for (int i = 0; i < memory->CrashCount(state); ++i) {
        const std::unique_ptr<MemoryFileSystem> after = memory->Crash(state, i);
        ExpectOldOrNew(*after, absl::StrCat("killed after call ", k, ", disk state ", static_cast<int>(state), ".", i));
      }
    }
    ExpectResumable(*memory->Crash(DiskState::kOnlySynced), absl::StrCat("killed after call ", k));
    if (HasFailure()) {
      return;
    }
  }
  EXPECT_GT(k, 10);  // a save is more calls than that
}

TEST_F(SaveCrashTest, AFailedBackgroundSaveEndsTheRunAndLeavesTheOldCheckpoint) {
  // Failures before the last save come from the fence of a later step, those of the last one from the wait for it.
  for (const int64_t steps : {2, 4}) {
    int64_t failures = 0;
    for (int64_t k = 0; k < 200; ++k) {
      const std::unique_ptr<MemoryFileSystem> memory = before_.Crash(DiskState::kOnlySynced);
      FaultFileSystem fs(*memory, Fault::kFullDisk, k);
      TrainerOptions options = Quiet();
      options.fs = &fs;
      std::vector<std::string> layers = Layers(steps);
      layers.push_back("checkpoint { async: LAZY keep: 2 }");
      const absl::Status status = RunTraining(layers, options).status();
      if (k >= fs.calls()) {
        EXPECT_OK(status);
        break;
      }
      if (!status.ok()) {
        ++failures;
        EXPECT_EQ(GetErrorKind(status), ErrorKind::kNoSpace) << status;
      }
      ASSERT_OK_AND_ASSIGN(const std::vector<CheckpointRef> left,
                           CheckpointRoot(*memory, directory_ + "/run/checkpoint").List());
      EXPECT_FALSE(left.empty()) << k;
    }
    EXPECT_GT(failures, 5) << steps;
  }
}

// Its disk is full while step 2 is saved, which it says only when step 3 is computed.
class FullAtStepTwo : public MemoryFileSystem {
 public:
  absl::Status MakeDirectory(const std::string& path) override {
    if (absl::StrContains(path, "step-00000002.tmp")) {
      computed_.WaitForNotification();
      return MakeError(ErrorKind::kNoSpace, "the disk is full");
    }
    return MemoryFileSystem::MakeDirectory(path);
  }
  void StepThreeIsComputed() { computed_.Notify(); }

 private:
  absl::Notification computed_;
};

TEST_F(SaveCrashTest, TheLastSaveIsMadeThoughTheOneBeforeFailed) {
  FullAtStepTwo fs;
  TrainerOptions options = Quiet();
  options.fs = &fs;
  options.on_step = [&fs](const StepMetrics& metrics) {
    if (metrics.step == 3) {
      fs.StepThreeIsComputed();
    }
  };
  const std::string directory = FreshDirectory("last_save");

  EXPECT_THAT(
      RunTraining({TinyConfig(directory + "/run", TextFile(directory), 3), "checkpoint { interval: 1 async: LAZY }"},
                  options),
      IsKind(ErrorKind::kNoSpace, ::testing::HasSubstr("the disk is full")));

  ASSERT_OK_AND_ASSIGN(const std::vector<CheckpointRef> saved,
                       CheckpointRoot(fs, directory + "/run/checkpoint").List());
  ASSERT_EQ(saved.size(), 2u);
  EXPECT_EQ(saved[0].step, 1);
  EXPECT_EQ(saved[1].step, 3);
}

TEST_F(SaveCrashTest, AFailedSaveEndsTheRunAndLeavesTheOldCheckpoint) {
  for (const Fault fault : {Fault::kFullDisk, Fault::kSyncEio}) {
    int64_t failures = 0;
    for (int64_t k = 0; k < 200; ++k) {
      const std::unique_ptr<MemoryFileSystem> memory = before_.Crash(DiskState::kOnlySynced);
      FaultFileSystem fs(*memory, fault, k);
      TrainerOptions options = Quiet();
      options.fs = &fs;
      const absl::Status status = RunTraining(Layers(2), options).status();
      if (k >= fs.calls()) {
        break;
      }
      failures += status.ok() ? 0 : 1;
      ExpectOldOrNew(*memory->Crash(DiskState::kOnlySynced), absl::StrCat(FaultName(fault), " at call ", k));
    }
    EXPECT_GT(failures, 0) << FaultName(fault);
  }
}

}  // namespace
}  // namespace waypoint::engine
