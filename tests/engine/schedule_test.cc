// Which checkpoints and exports of a run are there afterwards, and what an export holds.

#include <algorithm>
#include <fstream>
#include <set>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "checkpoint/checkpointer/checkpointer.h"
#include "engine/trainer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/tiny_run.h"
#include "tests/testing/status_matchers.h"

namespace waypoint::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(ScheduleTest, NothingButTheEndIsSavedWithoutAnInterval) {
  const std::string directory = FreshDirectory("end");

  ASSERT_OK(RunTraining({TinyConfig(directory, TextFile(directory), 3)}, Quiet()));

  EXPECT_THAT(DirectoriesIn(directory + "/checkpoint"), ElementsAre("step-00000003"));
  EXPECT_THAT(DirectoriesIn(directory + "/export"), IsEmpty());
}

TEST(ScheduleTest, KeepAndKeepEvery) {
  const std::string directory = FreshDirectory("keep");

  ASSERT_OK(RunTraining(
      {TinyConfig(directory, TextFile(directory), 9), "checkpoint { interval: 2 keep: 1 keep_every: 2 }"}, Quiet()));

  // 4 and 8 are every second save; 2, 6 and 9 compete for one place.
  EXPECT_THAT(DirectoriesIn(directory + "/checkpoint"), ElementsAre("step-00000004", "step-00000008", "step-00000009"));
}

TEST(ScheduleTest, KeepBestKeepsTheSavesOfTheLowestLoss) {
  const std::string directory = FreshDirectory("best");
  std::vector<double> losses;
  TrainerOptions options = Quiet();
  options.on_step = [&losses](const StepMetrics& metrics) { losses.push_back(metrics.loss); };

  // So high a rate that losses go up in the end.
  ASSERT_OK(
      RunTraining({TinyConfig(directory, TextFile(directory), 8),
                   "checkpoint { interval: 1 keep: 1 keep_best: 2 } optimizer { lr: 1 } schedule { warmup_steps: 6 }"},
                  options));

  std::vector<int64_t> order = {1, 2, 3, 4, 5, 6, 7, 8};
  std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return losses[a - 1] < losses[b - 1]; });
  ASSERT_LT(std::max(order[0], order[1]), 8) << "the newest stays anyway";
  std::vector<std::string> expected;
  for (const int64_t step : std::set<int64_t>({order[0], order[1], 8})) {
    expected.push_back(absl::StrCat("step-0000000", step));
  }
  EXPECT_THAT(DirectoriesIn(directory + "/checkpoint"), ::testing::ElementsAreArray(expected));
}

TEST(ScheduleTest, WhatASignalSavedIsCountedToo) {
  const std::string directory = FreshDirectory("signals");
  const std::string config = TinyConfig(directory, TextFile(directory), 9);
  for (const int64_t more_steps : {1, 2, 2, 2}) {
    ASSERT_OK(RunTraining({config, "checkpoint { interval: 2 keep: 2 }"}, Quiet(/*stop_after=*/more_steps)));
  }

  EXPECT_THAT(DirectoriesIn(directory + "/checkpoint"), ElementsAre("step-00000006", "step-00000007"));
}

TEST(ScheduleTest, WithoutAnIntervalTheNewestSavesStay) {
  const std::string directory = FreshDirectory("no_interval");
  const std::string config = TinyConfig(directory, TextFile(directory), 9);
  for (int i = 0; i < 4; ++i) {
    ASSERT_OK(RunTraining({config, "checkpoint { keep: 2 }"}, Quiet(/*stop_after=*/1)));
  }

  EXPECT_THAT(DirectoriesIn(directory + "/checkpoint"), ElementsAre("step-00000003", "step-00000004"));
}

TEST(ScheduleTest, WhatASignalSavedStaysOnRequestWhenTheIntervalChanges) {
  const std::string directory = FreshDirectory("interval");
  const std::string config = TinyConfig(directory, TextFile(directory), 6);
  ASSERT_OK(RunTraining({config, "checkpoint { interval: 2 keep: 1 }"}, Quiet(/*stop_after=*/3)));

  // 3 is on this interval.
  ASSERT_OK(RunTraining({config, "checkpoint { interval: 1 keep: 1 keep_signal_saves: true }"}, Quiet()));

  EXPECT_THAT(DirectoriesIn(directory + "/checkpoint"), ElementsAre("step-00000003", "step-00000006"));
}

TEST(ScheduleTest, ExportsGoByTheirOwnSchedule) {
  const std::string directory = FreshDirectory("exports");

  ASSERT_OK_AND_ASSIGN(const FinishedRun run, RunTraining({TinyConfig(directory, TextFile(directory), 7),
                                                           "export { format: \"llama\" interval: 2 keep: 2 }"},
                                                          Quiet()));

  EXPECT_EQ(run.report.exports.size(), 4);
  EXPECT_THAT(DirectoriesIn(directory + "/export/llama"), ElementsAre("step-00000006", "step-00000007"));
  EXPECT_THAT(DirectoriesIn(directory + "/checkpoint"), ElementsAre("step-00000007"));
}

TEST(ScheduleTest, AStoppedRunExportsOnlyWhatIsDue) {
  const std::string directory = FreshDirectory("stopped");

  ASSERT_OK(RunTraining({TinyConfig(directory, TextFile(directory), 7), "export { format: \"llama\" interval: 2 }"},
                        Quiet(/*stop_after=*/3)));

  EXPECT_THAT(DirectoriesIn(directory + "/export/llama"), ElementsAre("step-00000002"));
  EXPECT_THAT(DirectoriesIn(directory + "/checkpoint"), ElementsAre("step-00000003"));
}

TEST(ScheduleTest, AResumeMakesUpForALostExport) {
  const std::string directory = FreshDirectory("lost");
  const std::string config = TinyConfig(directory, TextFile(directory), 2);
  ASSERT_OK(RunTraining({config}, Quiet()));

  ASSERT_OK_AND_ASSIGN(const FinishedRun late, RunTraining({config, "export { format: \"llama\" }"}, Quiet()));
  ASSERT_OK_AND_ASSIGN(const FinishedRun again, RunTraining({config, "export { format: \"llama\" }"}, Quiet()));

  EXPECT_EQ(late.report.exports.size(), 1);
  EXPECT_THAT(again.report.exports, IsEmpty());
}

// What an export holds, as its own format reads it back.
absl::StatusOr<OpenedCheckpoint> OpenExport(const std::string& path) {
  FileSystem& fs = PosixFileSystem();
  auto format = FindFormat(fs, path, "llama");
  return format.ok() ? (*format)->Open(fs, path, {}) : format.status();
}

TEST(ExportTest, HoldsTheWeightsOfItsStep) {
  const std::string directory = FreshDirectory("weights");
  ASSERT_OK_AND_ASSIGN(
      const FinishedRun run,
      RunTraining({TinyConfig(directory, TextFile(directory), 2), "export { format: \"llama\" }"}, Quiet()));

  ASSERT_OK_AND_ASSIGN(OpenedCheckpoint exported, OpenExport(run.report.exports[0]));
  LiveState loaded = run.trainer->state().Weights();
  for (LiveTensor& parameter : loaded) {
    parameter.tensor = parameter.tensor.clone().fill_(-1);
  }
  ASSERT_OK_AND_ASSIGN(const auto sink, NewLiveSink(loaded));
  ASSERT_OK(Restore(exported, *sink, {}));

  EXPECT_EQ(DifferenceOf(loaded, run.trainer->state().Weights()), "");
  for (const TensorMeta& tensor : exported.tensors->manifest().tensors()) {
    EXPECT_THAT(tensor.name, Not(HasSubstr("/"))) << "no optimizer state in an export";
  }
}

TEST(ExportTest, CastsToTheWantedDtype) {
  const std::string directory = FreshDirectory("cast");
  ASSERT_OK_AND_ASSIGN(const FinishedRun run, RunTraining({TinyConfig(directory, TextFile(directory), 1),
                                                           "export { format: \"llama\" dtype: \"bfloat16\" }"},
                                                          Quiet()));

  ASSERT_OK_AND_ASSIGN(const OpenedCheckpoint exported, OpenExport(run.report.exports[0]));

  for (const TensorMeta& tensor : exported.tensors->manifest().tensors()) {
    EXPECT_EQ(tensor.dtype, DType::kBF16) << tensor.name;
  }
}

TEST(ExportTest, IsSwitchedOffFromTheCommandLine) {
  for (const std::string off : {"export.format=none", "export.format=\"\"", "export.format="}) {
    const std::string directory = FreshDirectory("off");
    ConfigLayers layers;
    ASSERT_OK(layers.AddText(TinyConfig(directory, TextFile(directory), 1), "config"));
    ASSERT_OK(layers.AddText("export { format: \"llama\" interval: 1 }", "config"));
    ASSERT_OK(layers.AddOverride(off));

    ASSERT_OK_AND_ASSIGN(const auto trainer, Trainer::Create(layers, Quiet()));
    ASSERT_OK_AND_ASSIGN(const TrainReport report, trainer->Run());

    EXPECT_THAT(report.exports, IsEmpty()) << off;
    EXPECT_THAT(DirectoriesIn(directory + "/export"), IsEmpty()) << off;
  }
}

TEST(ExportTest, UnknownFormatListsTheLinkedOnes) {
  const std::string directory = FreshDirectory("unknown");

  EXPECT_THAT(RunTraining({TinyConfig(directory, TextFile(directory), 1), "export { format: \"gguf\" }"}, Quiet()),
              IsKind(ErrorKind::kRequest, AllOf(HasSubstr("\"gguf\""), HasSubstr("llama"), HasSubstr("native"))));
}

TEST(ExportTest, AModelThatTheFormatCannotHoldIsRefusedAtTheStart) {
  const std::string directory = FreshDirectory("cannot");

  // Llama has no embedding scale.
  EXPECT_THAT(RunTraining({TinyConfig(directory + "/run", TextFile(directory), 1),
                           "export { format: \"llama\" } model { embeddings { embedding_scale: 4 } }"},
                          Quiet()),
              IsKind(ErrorKind::kConfig, HasSubstr("embedding_scale")));
  EXPECT_THAT(DirectoriesIn(directory), IsEmpty());
}

}  // namespace
}  // namespace waypoint::engine
