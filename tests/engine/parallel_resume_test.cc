// Jobs of many ranks that begin with a checkpoint: another program's, another job's, one that was written beside later
// steps.  resume_matrix_test has meshes and formats.

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
#include "tests/testing/directory_contents.h"
#include "tests/testing/status_matchers.h"

namespace waypoint::engine {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::Not;

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

JobOptions StopAfter(int64_t steps) {
  JobOptions options;
  options.stop_after = steps;
  return options;
}

// Columns lie scattered over chunks that would have to be read whole to be checked.
TEST(UncheckedBytesTest, AreTold) {
  const std::string directory = FreshDirectory("unchecked");
  const std::string wide = "model { decoder { fixed { mlp { dense { intermediate_size: 6144 } } } } }";
  const std::string config = JobConfig(directory + "/run", TextFile(directory), 2);

  const JobRun saved = RunJob(1, {config, wide}, StopAfter(1));
  const JobRun resumed = RunJob(3, {config, wide, "mesh { tensor: 3 }"});

  ASSERT_THAT(saved.statuses, Each(IsOk()));
  ASSERT_THAT(resumed.statuses, Each(IsOk()));
  EXPECT_EQ(DifferenceOf(resumed.start, saved.end), "");
  EXPECT_THAT(resumed.lines, Contains(AllOf(HasSubstr("note: the digests of"), HasSubstr("were not checked"))));
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

// Formats whose files rank 0 writes, with what the others hand it.
TEST(ParallelExportTest, PyTorchFilesAreThoseThatOneProcessMakesOfTheCheckpoint) {
  struct Export {
    std::string format;
    FormatOptionValues values;
  };
  // What all of them can say.
  const std::string llama =
      "model { decoder { fixed { mixer { attention { head_size: 2 add_linear_biases: false } } } } }"
      "schedule { warmup_steps: 0 }";
  for (const Export& wanted :
       {Export{"reference", {}}, Export{"fairseq2", {}}, Export{"llama", {{"weights", "bin"}}}}) {
    std::string more = absl::StrCat("export { format: \"", wanted.format, "\" ");
    for (const auto& [key, value] : wanted.values) {
      absl::StrAppend(&more, "format_options { key: \"", key, "\" value: \"", value, "\" } ");
    }
    for (const Layout& layout : {Layout{"tp2", 2, "mesh { tensor: 2 }"}, Layout{"pp2", 2, "mesh { pipeline: 2 }"},
                                 Layout{"dp3_weights", 3, "mesh { zero: WEIGHTS }"}}) {
      SCOPED_TRACE(absl::StrCat(layout.name, " ", more));
      const std::string directory = FreshDirectory(absl::StrCat("export_", wanted.format, "_", layout.name));

      const JobRun run = RunJob(
          layout.ranks, {JobConfig(directory + "/run", TextFile(directory), 1), llama, layout.config, more + "}"});

      ASSERT_THAT(run.statuses, Each(IsOk()));
      FileSystem& fs = PosixFileSystem();
      const std::string saved = run.reports[0].checkpoints.at(0);
      ASSERT_OK_AND_ASSIGN(CheckpointFormat * format, DetectFormat(fs, saved));
      ASSERT_OK_AND_ASSIGN(const OpenedCheckpoint opened, format->Open(fs, saved, {}));
      WriteOptions options;
      options.format = wanted.format;
      options.save.format_options = wanted.values;
      options.save.optimizer_state = false;
      ASSERT_OK(WriteCheckpoint(fs, directory + "/converted", options, opened.metadata, *opened.tensors, {}));
      EXPECT_TRUE(ReadContents(fs, run.reports[0].exports.at(0)) == ReadContents(fs, directory + "/converted"));
    }
  }
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
