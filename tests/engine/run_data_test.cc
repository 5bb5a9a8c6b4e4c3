// Runs whose data change, between two resumes or under the run, and what they save of themselves when a step fails.

#include <unistd.h>

#include <cstdio>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "checkpoint/checkpointer/checkpointer.h"
#include "engine/trainer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/job_run.h"
#include "tests/engine/tiny_run.h"
#include "tests/testing/status_matchers.h"

namespace waypoint::engine {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

std::string Joined(const std::vector<std::string>& lines) { return absl::StrJoin(lines, "\n"); }

TrainerOptions Printing(std::vector<std::string>* lines) {
  TrainerOptions options;
  options.print = [lines](const std::string& line) { lines->push_back(line); };
  return options;
}

// The first half, or the same length with other letters.
void Change(const std::string& path, bool shorter) {
  std::string text(4096, '\0');
  std::ifstream(path, std::ios::binary).read(text.data(), 4096);
  if (shorter) {
    text.resize(2048);
  } else {
    text[4000] ^= 1;
  }
  std::ofstream(path, std::ios::binary) << text;
}

TEST(ChangedDataTest, AreRefusedWithoutConsentAndToldWithIt) {
  for (const int ranks : {1, 2}) {
    for (const bool shorter : {true, false}) {
      const std::string directory = FreshDirectory(absl::StrCat("changed_", ranks, shorter));
      const std::string data = TextFile(directory);
      const std::string config = JobConfig(directory + "/run", data, 2);
      ASSERT_THAT(RunJob(ranks, {config}).statuses, Each(IsOk()));
      Change(data, shorter);

      const JobRun refused = RunJob(ranks, {config, "steps: 3"});
      EXPECT_THAT(
          refused.statuses,
          Each(IsKind(ErrorKind::kRequest, AllOf(HasSubstr(data), HasSubstr(shorter ? "2048 bytes" : "4096 bytes"),
                                                 HasSubstr("had 4096 bytes"), HasSubstr("data.allow_changed: true")))));

      const JobRun allowed = RunJob(ranks, {config, "steps: 3 data { allow_changed: true }"});
      ASSERT_THAT(allowed.statuses, Each(IsOk()));
      EXPECT_EQ(allowed.reports[0].first_step, 2);
      EXPECT_THAT(Joined(allowed.lines), AllOf(HasSubstr("data.allow_changed: the run goes on with it"),
                                               HasSubstr("the batches from data position 192 on are others")));

      // The new file is the run's from then on, and the consent is not remembered.
      EXPECT_THAT(RunJob(ranks, {config, "steps: 4"}).statuses, Each(IsOk()));
    }
  }
}

TEST(ChangedDataTest, AnotherNameOfTheSameContentsIsNoChange) {
  const std::string directory = FreshDirectory("moved");
  const std::string data = TextFile(directory);
  ASSERT_OK(RunTraining({TinyConfig(directory + "/run", data, 2)}, Quiet()));
  ASSERT_EQ(std::rename(data.c_str(), (data + ".moved").c_str()), 0);

  EXPECT_OK(RunTraining({TinyConfig(directory + "/run", data + ".moved", 3)}, Quiet()));
}

TEST(ChangedDataTest, AnotherWayToReadThemIsTold) {
  const std::string directory = FreshDirectory("read");
  const std::string config = TinyConfig(directory + "/run", TextFile(directory), 2);
  ASSERT_OK(RunTraining({config}, Quiet()));
  std::vector<std::string> lines;

  ASSERT_OK(RunTraining({config, "steps: 3 data { seed: 5 batch_size: 1 sequence_length: 6 }"}, Printing(&lines)));

  EXPECT_THAT(Joined(lines), AllOf(HasSubstr("data.seed: 7 -> 5"), HasSubstr("data.batch_size: 2 -> 1"),
                                   HasSubstr("data.sequence_length: 12 -> 6"),
                                   HasSubstr("changed: data.seed, data.sequence_length, data.batch_size;")));
}

TEST(ChangedDataTest, ACheckpointThatDoesNotSayIsTold) {
  const std::string directory = FreshDirectory("before");
  const std::string config = TinyConfig(directory + "/run", TextFile(directory), 2);
  ASSERT_OK_AND_ASSIGN(const FinishedRun first, RunTraining({config}, Quiet()));
  FileSystem& fs = PosixFileSystem();
  const std::string path = first.report.checkpoints.at(0);
  ASSERT_OK_AND_ASSIGN(CheckpointFormat * format, DetectFormat(fs, path));
  ASSERT_OK_AND_ASSIGN(OpenedCheckpoint saved, format->Open(fs, path, {}));
  ASSERT_TRUE(saved.metadata.training().has_data());
  saved.metadata.mutable_training()->clear_data();
  ASSERT_OK(CheckpointRoot(fs, directory + "/run/checkpoint").Save({}, saved.metadata, *saved.tensors));
  std::vector<std::string> lines;

  ASSERT_OK(RunTraining({config, "steps: 3"}, Printing(&lines)));

  EXPECT_THAT(Joined(lines), HasSubstr("note: the checkpoint does not say which data it was trained on"));
}

// At the end of a long file, which no batch of these steps reads.
TEST(TokensTest, OnesOutsideTheVocabularyAreFoundAtTheStart) {
  for (const int ranks : {1, 3}) {
    const std::string directory = FreshDirectory(absl::StrCat("vocabulary_", ranks));
    const std::string data = TextFile(directory);
    const std::string bytes(3 << 20, 'a');
    std::ofstream(data, std::ios::binary) << bytes << '\xff';

    const JobRun run = RunJob(ranks, {JobConfig(directory + "/run", data, 2)});

    EXPECT_THAT(run.statuses[0],
                IsKind(ErrorKind::kRequest, HasSubstr("token 3145728 is 255, the model's vocabulary has 131")));
    EXPECT_THAT(run.statuses, Each(Not(IsOk())));
    EXPECT_THAT(run.losses, IsEmpty());
  }
}

TEST(FailedStepTest, AFileThatIsCutUnderTheRunIsAnErrorAndTheLastStepIsSaved) {
  for (const int ranks : {1, 2, 4}) {
    for (const std::string async : {"NONE", "LAZY"}) {
      SCOPED_TRACE(absl::StrCat(ranks, " ", async));
      const std::string directory = FreshDirectory(absl::StrCat("cut_", ranks, async));
      const std::string data = TextFile(directory);
      const std::string config =
          absl::StrCat(JobConfig(directory + "/run", data, 9), " checkpoint { interval: 2 async: ", async, " }");
      JobOptions options;
      options.on_step = [&](int rank, int64_t step) {
        if (rank == 0 && step == 5) {
          ASSERT_EQ(truncate(data.c_str(), 100), 0);
        }
      };

      const JobRun run = RunJob(ranks, {config, ranks == 4 ? "mesh { tensor: 2 zero: WEIGHTS }" : ""}, options);

      int told = 0;
      for (const absl::Status& status : run.statuses) {
        EXPECT_THAT(status, Not(IsOk()));
        told += GetErrorKind(status) == ErrorKind::kTruncated ? 1 : 0;
        EXPECT_THAT(std::string(status.message()), HasSubstr("cut short while the run reads it"));
      }
      EXPECT_GE(told, 1);
      EXPECT_THAT(Joined(run.lines), AllOf(HasSubstr("the state of step 5 is whole and is saved first"),
                                           HasSubstr("saved " + directory + "/run/checkpoint/step-00000005")));
      EXPECT_THAT(DirectoriesIn(directory + "/run/checkpoint"),
                  ElementsAre("step-00000002", "step-00000004", "step-00000005"));

      // It is the state that the run would have gone on with.
      TextFile(directory);
      const JobRun rest = RunJob(ranks, {config, ranks == 4 ? "mesh { tensor: 2 zero: WEIGHTS }" : ""});
      const JobRun whole = RunJob(ranks, {config, ranks == 4 ? "mesh { tensor: 2 zero: WEIGHTS }" : "",
                                          absl::StrCat("output: \"", directory, "/whole\"")});
      ASSERT_THAT(rest.statuses, Each(IsOk()));
      EXPECT_EQ(rest.reports[0].first_step, 5);
      EXPECT_EQ(DifferenceOf(rest.end, whole.end), "");
    }
  }
}

TEST(FailedStepTest, AStepThatIsSavedAlreadyIsNotSavedAgain) {
  const std::string directory = FreshDirectory("saved");
  const std::string data = TextFile(directory);
  TrainerOptions options = Quiet();
  options.on_step = [&](const StepMetrics& metrics) {
    if (metrics.step == 4) {
      ASSERT_EQ(truncate(data.c_str(), 100), 0);
    }
  };

  EXPECT_THAT(RunTraining({TinyConfig(directory + "/run", data, 9), "checkpoint { interval: 2 }"}, options),
              IsKind(ErrorKind::kTruncated));

  EXPECT_THAT(DirectoriesIn(directory + "/run/checkpoint"), ElementsAre("step-00000002", "step-00000004"));
}

TEST(FailedStepTest, WhatIsNotFiniteIsNotSaved) {
  const std::string directory = FreshDirectory("nan");
  const std::string data = TextFile(directory);
  std::vector<std::string> lines;
  Trainer* running = nullptr;
  TrainerOptions options = Printing(&lines);
  options.on_step = [&](const StepMetrics& metrics) {
    if (metrics.step == 3) {
      // A cosmic ray, and then the end of the data.
      running->state().Tensors()[1].tensor.view({-1})[0].fill_(std::numeric_limits<float>::infinity());
      ASSERT_EQ(truncate(data.c_str(), 100), 0);
    }
  };
  ConfigLayers layers;
  ASSERT_OK(layers.AddText(TinyConfig(directory + "/run", data, 9), "config"));
  ASSERT_OK_AND_ASSIGN(const std::unique_ptr<Trainer> trainer, Trainer::Create(layers, options));
  running = trainer.get();

  EXPECT_THAT(trainer->Run(), IsKind(ErrorKind::kTruncated));

  EXPECT_THAT(Joined(lines), HasSubstr("warning: step 3 is not saved: it has numbers that are not finite"));
  EXPECT_THAT(DirectoriesIn(directory + "/run/checkpoint"), IsEmpty());
}

TEST(FailedStepTest, AStateThatDivergesIsNotSaved) {
  const std::string directory = FreshDirectory("loss");
  std::vector<std::string> lines;

  EXPECT_THAT(
      RunTraining({TinyConfig(directory + "/run", TextFile(directory), 9), "optimizer { lr: 1e6 weight_decay: 1e6 }"},
                  Printing(&lines)),
      Not(IsOk()));

  EXPECT_THAT(Joined(lines), HasSubstr("is not saved: its loss is"));
  EXPECT_THAT(DirectoriesIn(directory + "/run/checkpoint"), IsEmpty());
}

}  // namespace
}  // namespace waypoint::engine
