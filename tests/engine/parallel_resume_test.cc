// A job of many ranks that stops and resumes, on the same mesh and on any other.

#include <cstring>
#include <filesystem>
#include <fstream>
#include <future>

#include "ATen/Functions.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/checkpointer/checkpointer.h"
#include "checkpoint/storage/fault_file_system.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/job_run.h"
#include "tests/engine/layouts.h"
#include "tests/engine/tiny_run.h"
#include "tests/testing/status_matchers.h"

namespace waypoint::engine {
namespace {

using ::testing::Contains;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::Not;

JobOptions StopAfter(int64_t steps) {
  JobOptions options;
  options.stop_after = steps;
  return options;
}

class SameLayoutTest : public ::testing::TestWithParam<Layout> {};

TEST_P(SameLayoutTest, SixStepsEqualThreeAResumeAndThree) {
  const std::string directory = FreshDirectory(absl::StrCat("same_", GetParam().name));
  const std::string data = TextFile(directory);
  const std::string layout = GetParam().config;
  const int ranks = GetParam().ranks;

  const JobRun whole = RunJob(ranks, {JobConfig(directory + "/whole", data, 6), layout});
  const std::string halves = JobConfig(directory + "/halves", data, 6);
  const JobRun first = RunJob(ranks, {halves, layout}, StopAfter(3));
  const JobRun second = RunJob(ranks, {halves, layout});

  for (const JobRun* run : {&whole, &first, &second}) {
    ASSERT_THAT(run->statuses, Each(IsOk()));
    EXPECT_EQ(run->problem, "");
  }
  EXPECT_EQ(DifferenceOf(second.start, first.end), "");
  EXPECT_EQ(DifferenceOf(second.end, whole.end), "");
  EXPECT_EQ(second.losses, std::vector<double>(whole.losses.begin() + 3, whole.losses.end()));
  EXPECT_THAT(second.lines, Not(Contains(HasSubstr("note:"))));
}

INSTANTIATE_TEST_SUITE_P(Layouts, SameLayoutTest, ::testing::ValuesIn(kSomeLayouts),
                         [](const auto& info) { return std::string(info.param.name); });

// Formats whose files all ranks write together.
TEST_P(SameLayoutTest, NativeCheckpointsHoldTheWholeStateAndExportsItsWeights) {
  const std::string directory = FreshDirectory(absl::StrCat("native_", GetParam().name));
  const std::string config = JobConfig(directory + "/run", TextFile(directory), 2);
  const std::string more = "checkpoint { format: \"native\" } export { format: \"llama\" }";

  const JobRun first = RunJob(GetParam().ranks, {config, GetParam().config, more});
  ASSERT_THAT(first.statuses, Each(IsOk()));
  const JobRun second = RunJob(1, {config, more});
  const JobRun third = RunJob(1, {JobConfig(directory + "/from_export", TextFile(directory), 0),
                                  absl::StrCat("pretrained { path: \"", first.reports[0].exports.at(0), "\" }")});

  for (const JobRun* run : {&first, &second, &third}) {
    ASSERT_THAT(run->statuses, Each(IsOk()));
    EXPECT_EQ(run->problem, "");
  }
  EXPECT_EQ(second.reports[0].first_step, 2);
  EXPECT_EQ(DifferenceOf(second.start, first.end), "");
  for (const auto& [name, tensor] : third.start) {
    // The optimizer begins anew.
    if (!absl::StrContains(name, '/')) {
      EXPECT_TRUE(tensor.equal(first.end.at(name))) << name;
    }
  }
}

// What one layout saved, in each format, continued by every other one.
class OtherLayoutTest : public ::testing::TestWithParam<Layout> {};

TEST_P(OtherLayoutTest, EveryLayoutLoadsTheSameBitsAndTrainsOn) {
  const std::string directory = FreshDirectory(absl::StrCat("other_", GetParam().name));
  const std::string data = TextFile(directory);
  const std::string layout = GetParam().config;
  const JobRun whole = RunJob(GetParam().ranks, {JobConfig(directory + "/whole", data, 5), layout});
  ASSERT_THAT(whole.statuses, Each(IsOk()));
  const JobRun first = RunJob(GetParam().ranks, {JobConfig(directory + "/first", data, 5), layout}, StopAfter(3));
  ASSERT_THAT(first.statuses, Each(IsOk()));
  const std::string saved = first.reports[0].checkpoints[0];
  ASSERT_OK_AND_ASSIGN(CheckpointFormat * format, DetectFormat(PosixFileSystem(), saved));
  EXPECT_EQ(format->name(), GetParam().ranks == 1 ? "native" : "distributed");
  ASSERT_OK_AND_ASSIGN(const OpenedCheckpoint opened, format->Open(PosixFileSystem(), saved, {}));
  EXPECT_EQ(SavedGenerators(opened.metadata.training()), GetParam().ranks);

  for (const Layout& other : kSomeLayouts) {
    SCOPED_TRACE(absl::StrCat(GetParam().name, " to ", other.name));
    const std::string output = absl::StrCat(directory, "/", other.name);
    ASSERT_OK(MakeDirectories(PosixFileSystem(), output + "/checkpoint"));
    std::filesystem::copy(saved, output + "/checkpoint/step-00000003", std::filesystem::copy_options::recursive);

    const JobRun second = RunJob(other.ranks, {JobConfig(output, data, 5), other.config});

    ASSERT_THAT(second.statuses, Each(IsOk()));
    EXPECT_EQ(second.problem, "");
    EXPECT_EQ(second.reports[0].first_step, 3);
    EXPECT_EQ(DifferenceOf(second.start, first.end), "");
    ASSERT_EQ(second.losses.size(), 2u);
    for (size_t i = 0; i < 2; ++i) {
      EXPECT_NEAR(second.losses[i], whole.losses[i + 3], 1e-5);
    }
    const auto note = HasSubstr(absl::StrCat("saved by ", GetParam().ranks));
    if (other.config == std::string(GetParam().config)) {
      EXPECT_THAT(second.lines, Not(Contains(note)));
    } else {
      EXPECT_THAT(second.lines, Contains(note));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Layouts, OtherLayoutTest, ::testing::ValuesIn(kSomeLayouts),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(OtherTensorRanksTest, FourGoToSixAndThreeToTwo) {
  for (const auto& [saved, loaded] : {std::pair(4, 6), std::pair(3, 2)}) {
    const std::string directory = FreshDirectory(absl::StrCat("tensor_", saved));
    const std::string config = JobConfig(directory + "/run", TextFile(directory), 2);
    const JobRun first = RunJob(saved, {config, absl::StrCat("mesh { tensor: ", saved, " }")});
    const JobRun second = RunJob(loaded, {config, absl::StrCat("mesh { tensor: ", loaded, " }")});

    ASSERT_THAT(first.statuses, Each(IsOk()));
    ASSERT_THAT(second.statuses, Each(IsOk()));
    EXPECT_EQ(second.reports[0].first_step, 2);
    EXPECT_EQ(DifferenceOf(second.start, first.end), "");
  }
}

TEST(OtherMeshTest, AsManyRanksThatDivideTheWorkOtherwiseAreToldWhatDiffers) {
  const std::string directory = FreshDirectory("mesh");
  const std::string config = JobConfig(directory + "/run", TextFile(directory), 1);
  ASSERT_THAT(RunJob(2, {config, "mesh { tensor: 2 }"}).statuses, Each(IsOk()));

  const JobRun same = RunJob(2, {config, "mesh { tensor: 2 }"});
  const JobRun other = RunJob(2, {config, "mesh { zero: OPTIMIZER }"});

  EXPECT_THAT(same.lines, Not(Contains(HasSubstr("saved by"))));
  EXPECT_THAT(other.lines,
              Contains(::testing::AllOf(
                  HasSubstr("saved by 2 ranks as pipeline 1, data 1, tensor 2, zero NONE, 1 micro-batches"),
                  HasSubstr("continued as pipeline 1, data 2, tensor 1, zero OPTIMIZER"),
                  HasSubstr("sums round differently"))));
}

class PretrainedLayoutTest : public ::testing::TestWithParam<Layout> {
 protected:
  // The state that a job begins with, `more` being its pretrained section.
  GlobalState StartOf(const std::string& name, const Layout& layout, const std::string& more) {
    const std::string directory = FreshDirectory(absl::StrCat("pretrained_", name, "_", layout.name));
    const std::string config =
        absl::StrCat("steps: 0 seed: 3 threads: 1 output: \"", directory, "/run\" data { path: \"", TextFile(directory),
                     "\" kind: BYTES batch_size: 12 sequence_length: 8 } ", more);
    const JobRun run = RunJob(layout.ranks, {config, layout.config});
    EXPECT_THAT(run.statuses, Each(IsOk()));
    EXPECT_EQ(run.problem, "");
    return run.start;
  }
};

TEST_P(PretrainedLayoutTest, EachRankReadsItsBoxesOfAHuggingFaceDirectory) {
  const std::string copy = JoinPath(FreshDirectory("llama"), "hf");
  std::filesystem::create_directories(copy);
  // Copied by content: a fixture is a directory of links in a test, and links out of a checkpoint are refused.
  for (const auto& entry : std::filesystem::directory_iterator("tests/testdata/fixtures/llama2_fp32/hf")) {
    std::ofstream(copy + "/" + entry.path().filename().string(), std::ios::binary)
        << std::ifstream(entry.path(), std::ios::binary).rdbuf();
  }
  for (const std::string dtype : {"float32", "bfloat16"}) {
    const std::string config = absl::StrCat("dtype: \"", dtype, "\" pretrained { path: \"", copy, "\" }");
    const GlobalState one = StartOf("hf_one", {"one", 1, ""}, config);

    EXPECT_EQ(DifferenceOf(StartOf("hf", GetParam(), config), one), "") << dtype;
  }
}

TEST_P(PretrainedLayoutTest, OptimizerStateComesAlongFromAnyLayout) {
  const std::string directory = FreshDirectory("source");
  const JobRun source = RunJob(
      2, {JobConfig(directory + "/run", TextFile(directory), 2), "dtype: \"bfloat16\" mesh { zero: OPTIMIZER }"});
  ASSERT_THAT(source.statuses, Each(IsOk()));
  const std::string config = absl::StrCat("dtype: \"bfloat16\" pretrained { optimizer_state: true path: \"",
                                          source.reports[0].checkpoints[0], "\" }");

  EXPECT_EQ(DifferenceOf(StartOf("native", GetParam(), config), source.end), "");
}

constexpr Layout kPretrainedLayouts[] = {{"tp2", 2, "mesh { tensor: 2 }"},
                                         {"pp2", 2, "mesh { pipeline: 2 }"},
                                         {"dp3_optimizer", 3, "mesh { zero: OPTIMIZER }"},
                                         {"dp2_tp2_weights", 4, "mesh { tensor: 2 zero: WEIGHTS }"}};
INSTANTIATE_TEST_SUITE_P(Layouts, PretrainedLayoutTest, ::testing::ValuesIn(kPretrainedLayouts),
                         [](const auto& info) { return std::string(info.param.name); });

// Files that are made only when it is time.
class SlowFiles : public FaultFileSystem {
 public:
  explicit SlowFiles(std::shared_future<void> time) : FaultFileSystem(PosixFileSystem()), time_(std::move(time)) {}
  absl::StatusOr<std::unique_ptr<WritableFile>> Create(const std::string& path, const CreateOptions& options) override {
    time_.wait();
    return PosixFileSystem().Create(path, options);
  }

 private:
  const std::shared_future<void> time_;
};

class ParallelAsyncTest : public ::testing::TestWithParam<std::string> {};

// Of saves that were written while later steps overwrote the state.
TEST_P(ParallelAsyncTest, ACheckpointInTheMiddleContinuesAsTheRunDid) {
  const std::string directory = FreshDirectory("async_" + GetParam());
  const std::string data = TextFile(directory);
  const std::string config = JobConfig(directory + "/run", data, 6);
  const std::string layout =
      absl::StrCat("mesh { tensor: 2 zero: OPTIMIZER } checkpoint { interval: 1 keep: 0 async: ", GetParam(), " }");
  const JobRun whole = RunJob(4, {config, layout});
  ASSERT_THAT(whole.statuses, Each(IsOk()));
  ASSERT_EQ(whole.reports[1].checkpoints.size(), 6u);

  for (const int kept : {5, 2}) {
    for (const std::string& path : whole.reports[0].checkpoints) {
      if (path > absl::StrCat(directory, "/run/checkpoint/step-0000000", kept)) {
        ASSERT_OK(RemoveTree(PosixFileSystem(), path));
      }
    }
    const JobRun again = RunJob(4, {config, layout});
    ASSERT_THAT(again.statuses, Each(IsOk()));
    EXPECT_EQ(again.reports[0].first_step, kept);
    EXPECT_EQ(DifferenceOf(again.end, whole.end), "");
    EXPECT_EQ(again.losses, std::vector<double>(whole.losses.begin() + kept, whole.losses.end()));
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, ParallelAsyncTest, ::testing::Values("COPY", "LAZY", "WRITE_PROTECT"),
                         [](const auto& info) { return info.param; });

// Whose memory is protected elsewhere, as on a host that does not let it.
TEST(ParallelSaveTest, AnyRankSaysThatItCopiesInsteadOfProtecting) {
  const std::string directory = FreshDirectory("fallback");
  JobOptions options;
  options.before_run = [](int rank, Trainer& trainer) {
    for (const LiveTensor& live : trainer.state().Tensors()) {
      if (rank == 1) {
        const at::Storage& storage = live.tensor.storage();
        const at::Tensor copy = at::empty({static_cast<int64_t>(storage.nbytes())}, at::kByte);
        std::memcpy(copy.data_ptr(), storage.data(), storage.nbytes());
        storage.set_data_ptr(copy.storage().set_data_ptr(at::DataPtr()));
      }
    }
    return absl::OkStatus();
  };

  const JobRun run = RunJob(
      2, {JobConfig(directory + "/run", TextFile(directory), 1), "checkpoint { async: WRITE_PROTECT }"}, options);

  ASSERT_THAT(run.statuses, Each(IsOk()));
  EXPECT_THAT(run.lines, Contains(HasSubstr("rank 1: note: checkpoint.async: copied")));
}

TEST(ParallelSaveTest, ASaveThatIsRefusedWhileTheOneBeforeRunsIsANoteOnAllRanks) {
  const std::string directory = FreshDirectory("refused");
  std::promise<void> steps_made;
  const std::shared_future<void> made = steps_made.get_future().share();
  JobOptions options;
  // Rank 1 writes its first checkpoint until the second and third were due.
  SlowFiles slow(made);
  options.fs_of_rank = [&](int rank) -> FileSystem* { return rank == 1 ? &slow : &PosixFileSystem(); };
  options.stop_after = 4;
  options.on_stop = [&] { steps_made.set_value(); };

  const JobRun run = RunJob(2,
                            {JobConfig(directory + "/run", TextFile(directory), 9),
                             "checkpoint { interval: 1 async: COPY when_busy: REFUSE }"},
                            options);

  ASSERT_THAT(run.statuses, Each(IsOk()));
  for (const int step : {2, 3}) {
    EXPECT_THAT(run.lines, Contains(HasSubstr(absl::StrCat("no checkpoint of step ", step, ": the one before"))));
  }
  for (const TrainReport& report : run.reports) {
    EXPECT_THAT(report.checkpoints, ::testing::ElementsAre(HasSubstr("step-00000001"), HasSubstr("step-00000004")));
  }
}

TEST(ParallelSaveTest, AStateThatNeedsMoreCopiesThanAllowedIsRefusedAtTheStart) {
  const std::string directory = FreshDirectory("limit");

  const JobRun run = RunJob(2, {JobConfig(directory + "/run", TextFile(directory), 1),
                                "checkpoint { async: COPY max_snapshot_bytes: 1000 }"});

  EXPECT_THAT(run.statuses, Each(IsKind(ErrorKind::kLimit, HasSubstr("max_snapshot_bytes is 1000"))));
}

TEST(ParallelSaveTest, ASecondJobIsRefusedOnAllItsRanks) {
  const std::string directory = FreshDirectory("locked");
  const std::string config = JobConfig(directory + "/run", TextFile(directory), 2);
  CheckpointRoot other(PosixFileSystem(), directory + "/run/checkpoint");
  ASSERT_OK(other.Hold());

  const JobRun run = RunJob(2, {config});

  EXPECT_THAT(run.statuses[0], IsKind(ErrorKind::kLocked, HasSubstr("another job")));
  EXPECT_THAT(run.statuses[1], IsKind(ErrorKind::kRank, HasSubstr("another job")));
}

}  // namespace
}  // namespace waypoint::engine
