// A run that stops and resumes is the run that never stopped.

#include <unistd.h>

#include <csignal>
#include <fstream>
#include <map>

#include "absl/strings/str_cat.h"
#include "checkpoint/async/snapshot_arena.h"
#include "checkpoint/checkpointer/checkpointer.h"
#include "checkpoint/coordination/coordinator.h"
#include "engine/shutdown_signal.h"
#include "engine/trainer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/engine/tiny_run.h"
#include "tests/testing/status_matchers.h"

namespace waypoint::engine {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// All lines of metrics.jsonl but for the times.
std::vector<std::string> History(const std::string& output) {
  std::vector<std::string> lines;
  std::ifstream file(JoinPath(output, "metrics.jsonl"));
  for (std::string line; std::getline(file, line);) {
    nlohmann::ordered_json json = nlohmann::ordered_json::parse(line);
    json.erase("seconds");
    lines.push_back(json.dump());
  }
  return lines;
}

struct Variant {
  std::string name;
  std::string layer;
};

class ResumeEqualityTest : public ::testing::TestWithParam<Variant> {};

TEST_P(ResumeEqualityTest, TenStepsEqualFiveAResumeAndFive) {
  const std::string directory = FreshDirectory("equal_" + GetParam().name);
  const std::string data = TextFile(directory);
  const std::string whole = TinyConfig(directory + "/whole", data, 10);
  const std::string halves = TinyConfig(directory + "/halves", data, 10);

  ASSERT_OK_AND_ASSIGN(const FinishedRun straight, RunTraining({whole, GetParam().layer}, Quiet()));
  ASSERT_OK_AND_ASSIGN(const FinishedRun first, RunTraining({halves, GetParam().layer}, Quiet(/*stop_after=*/5)));
  ASSERT_OK_AND_ASSIGN(const FinishedRun second, RunTraining({halves, GetParam().layer}, Quiet()));

  EXPECT_TRUE(first.report.stopped);
  EXPECT_EQ(second.report.start, StartKind::kResume);
  EXPECT_EQ(second.report.first_step, 5);
  EXPECT_EQ(second.report.last_step, 10);
  EXPECT_EQ(DifferenceOf(second.trainer->state().Tensors(), straight.trainer->state().Tensors()), "");
  EXPECT_EQ(History(directory + "/halves"), History(directory + "/whole"));
  EXPECT_EQ(History(directory + "/whole").size(), 10);
  TrainingState described = straight.trainer->state().Describe();
  TrainingState resumed = second.trainer->state().Describe();
  described.clear_trainer_config();  // names the directory
  resumed.clear_trainer_config();
  EXPECT_EQ(resumed.DebugString(), described.DebugString());
}

// Of a save that was written while later steps overwrote the state.
TEST_P(ResumeEqualityTest, ACheckpointInTheMiddleContinuesAsTheRunDid) {
  const std::string directory = FreshDirectory("middle_" + GetParam().name);
  const std::string config = TinyConfig(directory + "/run", TextFile(directory), 10);
  const std::vector<std::string> layers = {config, GetParam().layer, "checkpoint { interval: 1 keep: 0 }"};
  ASSERT_OK_AND_ASSIGN(const FinishedRun straight, RunTraining(layers, Quiet()));
  EXPECT_EQ(straight.report.checkpoints.size(), 10);
  const std::vector<std::string> history = History(directory + "/run");

  for (int step = 9; step >= 3; step -= 2) {
    for (const std::string& path : straight.report.checkpoints) {
      if (path > absl::StrCat(directory, "/run/checkpoint/step-0000000", step)) {
        ASSERT_OK(RemoveTree(PosixFileSystem(), path));
      }
    }
    ASSERT_OK_AND_ASSIGN(const FinishedRun again, RunTraining(layers, Quiet()));
    EXPECT_EQ(again.report.first_step, step);
    EXPECT_EQ(DifferenceOf(again.trainer->state().Tensors(), straight.trainer->state().Tensors()), "") << step;
    EXPECT_EQ(History(directory + "/run"), history) << step;
  }
}

INSTANTIATE_TEST_SUITE_P(Variants, ResumeEqualityTest,
                         ::testing::Values(Variant{"float32", "dtype: \"float32\""},
                                           Variant{"bfloat16", "dtype: \"bfloat16\""},
                                           Variant{"tied", "model { tied_embedding_weight: true }"},
                                           Variant{"copy", "checkpoint { async: COPY }"},
                                           Variant{"lazy", "checkpoint { async: LAZY }"},
                                           Variant{"lazy_bfloat16", "checkpoint { async: LAZY } dtype: \"bfloat16\""},
                                           Variant{"write_protect", "checkpoint { async: WRITE_PROTECT }"},
                                           Variant{"frozen_lazy",
                                                   "checkpoint { async: LAZY } dtype: \"bfloat16\" "
                                                   "frozen: [\"embeddings\", \"decoder.*.mlp\"]"},
                                           Variant{"frozen_write_protect",
                                                   "checkpoint { async: WRITE_PROTECT } "
                                                   "frozen: [\"embeddings\", \"decoder.*.mlp\"]"}),
                         [](const auto& info) { return info.param.name; });

TEST(ResumeTest, TrainingLearns) {
  const std::string directory = FreshDirectory("learns");

  ASSERT_OK_AND_ASSIGN(const FinishedRun run, RunTraining({TinyConfig(directory, TextFile(directory), 60)}, Quiet()));

  // ln(256) = 5.5 at random.
  EXPECT_LT(run.report.last_loss, 4);
}

TEST(ResumeTest, AnotherArchitectureIsRefusedByField) {
  const std::string directory = FreshDirectory("architecture");
  const std::string config = TinyConfig(directory + "/run", TextFile(directory), 2);
  ASSERT_OK(RunTraining({config}, Quiet()));

  EXPECT_THAT(
      RunTraining({config, "model { decoder { fixed { mixer { attention { rotary { theta: 5 } } } } } }"}, Quiet()),
      IsKind(ErrorKind::kConfig, AllOf(HasSubstr("theta"), HasSubstr("10000"), HasSubstr("step-00000002"))));
  EXPECT_THAT(RunTraining({config, "dtype: \"bfloat16\""}, Quiet()),
              IsKind(ErrorKind::kConfig, HasSubstr("dtype: float32 != bfloat16")));
}

TEST(ResumeTest, OtherDifferencesAreNotes) {
  const std::string directory = FreshDirectory("notes");
  const std::string config = TinyConfig(directory + "/run", TextFile(directory), 2);
  ASSERT_OK(RunTraining({config}, Quiet()));
  std::string printed;
  TrainerOptions options;
  options.print = [&printed](const std::string& line) { absl::StrAppend(&printed, line, "\n"); };

  ASSERT_OK_AND_ASSIGN(const FinishedRun run, RunTraining({config, "steps: 3 optimizer { lr: 0.5 }"}, options));

  EXPECT_EQ(run.report.last_step, 3);
  EXPECT_THAT(printed, AllOf(HasSubstr("optimizer.lr: 0.01 -> 0.5"), HasSubstr("steps: 2 -> 3")));
}

TEST(ResumeTest, AFinishedRunDoesNothing) {
  const std::string directory = FreshDirectory("finished");
  const std::string config = TinyConfig(directory + "/run", TextFile(directory), 2);
  ASSERT_OK(RunTraining({config}, Quiet()));

  ASSERT_OK_AND_ASSIGN(const FinishedRun again, RunTraining({config}, Quiet()));

  EXPECT_EQ(again.report.first_step, 2);
  EXPECT_TRUE(again.report.checkpoints.empty());
  EXPECT_THAT(DirectoriesIn(directory + "/run/checkpoint"), ElementsAre("step-00000002"));
}

TEST(ResumeTest, UnsealedCheckpointsDoNotCount) {
  const std::string directory = FreshDirectory("unsealed");
  const std::string config = TinyConfig(directory + "/run", TextFile(directory), 4);
  ASSERT_OK(RunTraining({config, "checkpoint { interval: 2 }"}, Quiet()));
  FileSystem& fs = PosixFileSystem();
  ASSERT_OK(fs.RemoveFile(directory + "/run/checkpoint/step-00000004/manifest.pb"));

  ASSERT_OK_AND_ASSIGN(const FinishedRun again, RunTraining({config}, Quiet()));

  EXPECT_EQ(again.report.first_step, 2);
}

// The rest of the file, as a copy that was broken off leaves it.
void CutTo(const std::string& path, int64_t bytes) { ASSERT_EQ(truncate(path.c_str(), bytes), 0) << path; }

TEST(ResumeTest, ACheckpointWhoseSealWasCutShortIsPassedOverWithAWarning) {
  for (const int64_t bytes : {0, 5, 30, 200}) {
    const std::string directory = FreshDirectory(absl::StrCat("cut_", bytes));
    const std::string config = TinyConfig(directory + "/run", TextFile(directory), 4);
    ASSERT_OK(RunTraining({config, "checkpoint { interval: 2 }"}, Quiet()));
    const std::string newest = directory + "/run/checkpoint/step-00000004";
    CutTo(newest + "/manifest.pb", bytes);
    std::vector<std::string> lines;
    TrainerOptions options;
    options.print = [&lines](const std::string& line) { lines.push_back(line); };

    ASSERT_OK_AND_ASSIGN(const FinishedRun again, RunTraining({config}, options));

    EXPECT_EQ(again.report.first_step, 2) << bytes;
    EXPECT_THAT(lines, Contains(AllOf(HasSubstr(newest), HasSubstr("not sealed"))));
    EXPECT_THAT(again.report.checkpoints, ElementsAre(newest + ".a2"));
  }
}

TEST(ResumeTest, ACheckpointUnderTheNameOfAnotherStepIsRefused) {
  const std::string directory = FreshDirectory("renamed");
  const std::string config = TinyConfig(directory + "/run", TextFile(directory), 4);
  ASSERT_OK(RunTraining({config, "checkpoint { interval: 2 }"}, Quiet()));
  const std::string root = directory + "/run/checkpoint";
  ASSERT_OK(PosixFileSystem().Rename(root + "/step-00000002", root + "/step-00000009"));

  EXPECT_THAT(RunTraining({config}, Quiet()),
              IsKind(ErrorKind::kAmbiguous,
                     AllOf(HasSubstr("step-00000009"), HasSubstr("name says step 9"), HasSubstr("manifest step 2"))));
}

TEST(ResumeTest, WhatWasSavedBetweenTheStartAndTheLockIsNotPassedOver) {
  for (const int64_t steps_before : {0, 2}) {
    const std::string directory = FreshDirectory(absl::StrCat("meanwhile_", steps_before));
    const std::string data = TextFile(directory);
    const std::string config = TinyConfig(directory + "/run", data, 6);
    if (steps_before > 0) {
      ASSERT_OK(RunTraining({config}, Quiet(/*stop_after=*/steps_before)));
    }
    ConfigLayers layers;
    ASSERT_OK(layers.AddText(config, "config"));
    ASSERT_OK_AND_ASSIGN(const std::unique_ptr<Trainer> late, Trainer::Create(layers, Quiet()));
    ASSERT_OK(RunTraining({config}, Quiet(/*stop_after=*/2)));

    EXPECT_THAT(late->Run(),
                IsKind(ErrorKind::kLocked, AllOf(HasSubstr("another job saved meanwhile"),
                                                 HasSubstr(absl::StrCat("step-0000000", steps_before + 2)))));

    // And keeps nobody out.
    EXPECT_OK(RunTraining({config}, Quiet()));
  }
}

TEST(SignalTest, SavesAfterTheRunningStepAndStops) {
  const std::string directory = FreshDirectory("signal");
  const std::string config = TinyConfig(directory + "/run", TextFile(directory), 9);
  const ShutdownSignal shutdown;
  TrainerOptions options = Quiet();
  options.on_step = [](const StepMetrics& metrics) {
    if (metrics.step == 3) {
      std::raise(SIGTERM);
    }
  };
  options.stop = [&shutdown] { return shutdown.received() != 0; };

  ASSERT_OK_AND_ASSIGN(const FinishedRun run, RunTraining({config, "checkpoint { interval: 2 keep: 1 }"}, options));
  EXPECT_TRUE(run.report.stopped);
  EXPECT_EQ(run.report.last_step, 3);
  ASSERT_OK_AND_ASSIGN(const FinishedRun rest, RunTraining({config, "checkpoint { interval: 2 keep: 1 }"}, Quiet()));

  EXPECT_EQ(rest.report.first_step, 3);
  EXPECT_THAT(DirectoriesIn(directory + "/run/checkpoint"), ElementsAre("step-00000009"));
}

TEST(SignalTest, TheLastSaveIsWaitedFor) {
  const std::string directory = FreshDirectory("signal_async");
  const std::string config = TinyConfig(directory + "/run", TextFile(directory), 9);

  ASSERT_OK_AND_ASSIGN(const FinishedRun run,
                       RunTraining({config, "checkpoint { interval: 2 async: LAZY }"}, Quiet(/*stop_after=*/5)));

  EXPECT_EQ(run.report.checkpoints.size(), 3);
  EXPECT_THAT(DirectoriesIn(directory + "/run/checkpoint"),
              ElementsAre("step-00000002", "step-00000004", "step-00000005"));
}

TEST(TrainerTest, ASecondJobIsRefusedWhileOneRuns) {
  const std::string directory = FreshDirectory("locked");
  const std::string config = TinyConfig(directory + "/run", TextFile(directory), 3);
  absl::Status second;
  TrainerOptions options = Quiet();
  // Between two saves.
  options.on_step = [&](const StepMetrics&) { second = RunTraining({config}, Quiet()).status(); };

  ASSERT_OK(RunTraining({config, "checkpoint { interval: 1 }"}, options));

  EXPECT_THAT(second, IsKind(ErrorKind::kLocked, AllOf(HasSubstr("another job"), HasSubstr("pid"))));
  EXPECT_OK(RunTraining({config}, Quiet()));
}

TEST(SignalTest, AtTheLastStepTheRunIsFinished) {
  const std::string directory = FreshDirectory("last");

  ASSERT_OK_AND_ASSIGN(const FinishedRun run,
                       RunTraining({TinyConfig(directory, TextFile(directory), 2)}, Quiet(/*stop_after=*/2)));

  EXPECT_FALSE(run.report.stopped);
}

TEST(TrainerTest, ADivergedRunStopsBeforeItRuinsTheWeights) {
  const std::string directory = FreshDirectory("diverged");

  const absl::Status status =
      RunTraining({TinyConfig(directory, TextFile(directory), 9), "optimizer { lr: 1e6 weight_decay: 1e6 }"}, Quiet())
          .status();

  EXPECT_THAT(status, IsKind(ErrorKind::kDiverged, HasSubstr("the norm of the gradients is")));
  EXPECT_THAT(std::string(status.message()), HasSubstr("lower optimizer.lr"));
  EXPECT_THAT(DirectoriesIn(directory + "/checkpoint"), ElementsAre());
}

TEST(TrainerTest, ASnapshotThatIsTakenInAnotherWayIsToldOnce) {
  const std::string directory = FreshDirectory("why");
  ASSERT_OK_AND_ASSIGN(const auto arena, SnapshotArena::Create(1, {}));
  int told = 0;
  TrainerOptions options = Quiet();
  options.print = [&told](const std::string& line) {
    told += line.find("note: checkpoint.async: copied") == 0 ? 1 : 0;
  };

  ASSERT_OK(RunTraining(
      {TinyConfig(directory, TextFile(directory), 3), "checkpoint { interval: 1 async: WRITE_PROTECT }"}, options));

  EXPECT_EQ(told, arena->guard() == nullptr ? 1 : 0);
}

TEST(TrainerTest, TokensOutsideTheVocabularyEndTheRun) {
  const std::string directory = FreshDirectory("vocabulary");

  EXPECT_THAT(RunTraining({TinyConfig(directory, TextFile(directory), 9), "model { vocab_size: 90 }"}, Quiet()),
              IsKind(ErrorKind::kRequest, HasSubstr("vocabulary has 90")));
}

// This trainer scales no losses; one that does may continue the run afterwards.
TEST(ResumeTest, ALossScalerOfAnotherTrainerIsCarriedThrough) {
  for (const std::string format : {"native", "distributed"}) {
    const std::string directory = FreshDirectory("scaler_" + format);
    const std::string layer = absl::StrCat("checkpoint { format: \"", format, "\" }");
    ASSERT_OK_AND_ASSIGN(const FinishedRun first,
                         RunTraining({TinyConfig(directory, TextFile(directory), 1), layer}, Quiet()));
    const std::string path = first.report.checkpoints[0];
    ASSERT_OK_AND_ASSIGN(CheckpointFormat * opener, FindFormat(PosixFileSystem(), path, format));
    ASSERT_OK_AND_ASSIGN(OpenedCheckpoint saved, opener->Open(PosixFileSystem(), path, {}));
    LossScaler& scaler = *saved.metadata.mutable_training()->mutable_loss_scaler();
    scaler.set_scale(4096);
    scaler.set_good_steps(17);
    CheckpointerOptions options;
    options.format = format;
    ASSERT_OK(CheckpointRoot(PosixFileSystem(), directory + "/checkpoint")
                  .Save(options, saved.metadata, *saved.tensors, saved.assets));

    ASSERT_OK_AND_ASSIGN(const FinishedRun second,
                         RunTraining({TinyConfig(directory, TextFile(directory), 2), layer}, Quiet()));

    EXPECT_EQ(second.report.first_step, 1);
    ASSERT_OK_AND_ASSIGN(const OpenedCheckpoint again,
                         opener->Open(PosixFileSystem(), second.report.checkpoints.at(0), {}));
    EXPECT_EQ(again.metadata.training().loss_scaler().scale(), 4096);
    EXPECT_EQ(again.metadata.training().loss_scaler().good_steps(), 17);
  }
}

}  // namespace
}  // namespace waypoint::engine
