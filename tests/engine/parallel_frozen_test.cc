// Parameters that a job of many ranks does not train, and a job that goes on with others frozen.

#include <filesystem>

#include "ATen/Functions.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/frozen.h"
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

// All of the first of three stages, and parts of every one.
constexpr char kBefore[] = "frozen: [\"embeddings\", \"decoder.0\", \"decoder.*.norm_1\", \"decoder.2.mlp\"]";
// Of these some are trained now, one half stays frozen, and others join.
constexpr char kNow[] = "frozen: [\"embeddings\", \"decoder.0.mixer\", \"decoder.1.mlp.layer_2\", \"head.final_norm\"]";

bool FrozenBy(const char* frozen, const std::string& parameter) {
  ConfigLayers layers;
  EXPECT_OK(layers.AddText(frozen, "test"));
  return IsFrozen(layers.Merged({}), parameter);
}

std::string ParameterOf(const std::string& name) { return name.substr(0, name.find('/')); }

constexpr Layout kFrozenLayouts[] = {
    {"tp2", 2, "mesh { tensor: 2 }"},
    {"pp2", 2, "mesh { pipeline: 2 }"},
    {"dp2", 2, ""},
    {"dp2_optimizer", 2, "mesh { zero: OPTIMIZER }"},
    {"pp3_four_pieces", 3, "mesh { pipeline: 3 micro_batches: 4 }"},
    {"dp3_weights", 3, "mesh { zero: WEIGHTS }"},
    {"tp2_pp2", 4, "mesh { tensor: 2 pipeline: 2 }"},
    {"dp2_tp2_optimizer", 4, "mesh { tensor: 2 zero: OPTIMIZER }"},
    {"pp2_dp2_weights", 4, "mesh { pipeline: 2 zero: WEIGHTS }"},
    {"pp3_dp2_optimizer", 6, "mesh { pipeline: 3 zero: OPTIMIZER }"},
    {"dp2_tp3_weights", 6, "mesh { tensor: 3 zero: WEIGHTS }"},
};

class FrozenLayoutTest : public ::testing::TestWithParam<Layout> {};
INSTANTIATE_TEST_SUITE_P(Layouts, FrozenLayoutTest, ::testing::ValuesIn(kFrozenLayouts),
                         [](const auto& info) { return std::string(info.param.name); });

JobRun Train(const std::string& name, const Layout& layout, const std::string& more) {
  const std::string directory = FreshDirectory(absl::StrCat(name, "_", layout.name));
  return RunJob(layout.ranks, {JobConfig(directory + "/run", TextFile(directory), 4), layout.config, more});
}

void ExpectSameTraining(const JobRun& run, const JobRun& one) {
  ASSERT_THAT(run.statuses, Each(IsOk()));
  EXPECT_EQ(run.problem, "");
  EXPECT_EQ(DifferenceOf(run.start, one.start), "");
  ASSERT_EQ(run.losses.size(), one.losses.size());
  for (size_t i = 0; i < one.losses.size(); ++i) {
    EXPECT_NEAR(run.losses[i], one.losses[i], 1e-5) << "step " << i + 1;
    EXPECT_NEAR(run.grad_norms[i], one.grad_norms[i], 1e-4 * one.grad_norms[i]) << "step " << i + 1;
  }
}

TEST_P(FrozenLayoutTest, RanksTrainAsOneAndLeaveWhatIsFrozen) {
  static const JobRun* const one = new JobRun(Train("frozen_reference", kLayouts[0], kBefore));

  const JobRun run = Train("frozen", GetParam(), kBefore);

  ExpectSameTraining(run, *one);
  ASSERT_EQ(run.end.size(), run.start.size());
  for (const auto& [name, tensor] : run.end) {
    const bool frozen = FrozenBy(kBefore, name);
    EXPECT_FALSE(frozen && absl::StrContains(name, '/')) << name;
    EXPECT_EQ(tensor.equal(run.start.at(name)), frozen) << name;
  }
}

TEST_P(FrozenLayoutTest, TiedEmbeddingsFreezeOnBothStages) {
  const std::string tied = "model { tied_embedding_weight: true } frozen: [\"embeddings\"]";
  static const JobRun* const one = new JobRun(Train("tied_reference", kLayouts[0], tied));

  const JobRun run = Train("tied", GetParam(), tied);

  ExpectSameTraining(run, *one);
  const std::string embeddings = "embeddings.word_embeddings_weight";
  EXPECT_TRUE(run.end.at(embeddings).equal(run.start.at(embeddings)));
}

JobOptions StopAfter(int64_t steps) {
  JobOptions options;
  options.stop_after = steps;
  return options;
}

// The second half of the run is stopped and resumed once more, so that where the thawed parameters began must be in the
// checkpoint: on rank 0's stage and on others.
TEST_P(FrozenLayoutTest, ChangedFreezingContinuesBitForBit) {
  const std::string directory = FreshDirectory(absl::StrCat("changed_", GetParam().name));
  const std::string data = TextFile(directory);
  const std::string layout = absl::StrCat("dtype: \"bfloat16\" ", GetParam().config);
  const std::string halves = JobConfig(directory + "/halves", data, 8);
  const JobRun first = RunJob(GetParam().ranks, {halves, layout, kBefore}, StopAfter(3));
  ASSERT_THAT(first.statuses, Each(IsOk()));
  std::filesystem::copy(directory + "/halves", directory + "/whole", std::filesystem::copy_options::recursive);

  const JobRun whole = RunJob(GetParam().ranks, {JobConfig(directory + "/whole", data, 8), layout, kNow});
  const JobRun second = RunJob(GetParam().ranks, {halves, layout, kNow}, StopAfter(2));
  const JobRun third = RunJob(GetParam().ranks, {halves, layout, kNow});

  for (const JobRun* run : {&whole, &second, &third}) {
    ASSERT_THAT(run->statuses, Each(IsOk()));
    EXPECT_EQ(run->problem, "");
  }
  EXPECT_EQ(third.reports[0].first_step, 5);
  EXPECT_EQ(DifferenceOf(third.start, second.end), "");
  EXPECT_EQ(DifferenceOf(third.end, whole.end), "");
  EXPECT_EQ(third.losses, std::vector<double>(whole.losses.begin() + 2, whole.losses.end()));
}

// What a job begins with that goes on from `saved` with kNow.
void ExpectThawedAndFrozen(const GlobalState& start, const GlobalState& saved) {
  size_t thawed = 0;
  for (const auto& [name, tensor] : start) {
    const std::string parameter = ParameterOf(name);
    if (name == parameter) {
      EXPECT_TRUE(tensor.equal(saved.at(name))) << name;
      continue;
    }
    EXPECT_FALSE(FrozenBy(kNow, parameter)) << name;
    if (!FrozenBy(kBefore, parameter)) {
      EXPECT_TRUE(tensor.equal(saved.at(name))) << name;
      continue;
    }
    ++thawed;
    EXPECT_EQ(saved.count(name), 0u) << name;
    if (absl::EndsWith(name, "/master")) {
      EXPECT_TRUE(tensor.equal(saved.at(parameter).to(at::kFloat))) << name;
    } else {
      EXPECT_FALSE(tensor.any().item<bool>()) << name;
    }
  }
  EXPECT_GT(thawed, 0u);
  for (const auto& [name, tensor] : saved) {
    EXPECT_TRUE(start.count(name) == 1 || (absl::StrContains(name, '/') && FrozenBy(kNow, ParameterOf(name)))) << name;
  }
}

struct Change {
  Layout from;
  Layout to;
  const char* format;
};

constexpr Change kChanges[] = {
    {{"one", 1, ""}, {"dp2_weights", 2, "mesh { zero: WEIGHTS }"}, "native"},
    {{"dp2_weights", 2, "mesh { zero: WEIGHTS }"}, {"one", 1, ""}, "distributed"},
    {{"tp3", 3, "mesh { tensor: 3 }"}, {"tp2", 2, "mesh { tensor: 2 }"}, "distributed"},
    {{"tp3", 3, "mesh { tensor: 3 }"}, {"pp2", 2, "mesh { pipeline: 2 }"}, "native"},
    {{"tp4", 4, "mesh { tensor: 4 }"}, {"tp6", 6, "mesh { tensor: 6 }"}, "distributed"},
    {{"tp2_pp2", 4, "mesh { tensor: 2 pipeline: 2 }"}, {"dp3", 3, ""}, "distributed"},
    {{"dp2_tp2_optimizer", 4, "mesh { tensor: 2 zero: OPTIMIZER }"},
     {"pp3_dp2_optimizer", 6, "mesh { pipeline: 3 zero: OPTIMIZER }"},
     "native"},
    {{"pp3_dp2_optimizer", 6, "mesh { pipeline: 3 zero: OPTIMIZER }"},
     {"dp2_tp2_weights", 4, "mesh { tensor: 2 zero: WEIGHTS }"},
     "distributed"},
};

class ChangedFreezingTest : public ::testing::TestWithParam<Change> {
 protected:
  // From its directory goes on whoever comes next.
  JobRun Saved(const std::string& dtype) {
    directory_ = FreshDirectory(absl::StrCat("change_", dtype, "_", GetParam().from.name, "_", GetParam().to.name));
    data_ = TextFile(directory_);
    common_ = absl::StrCat("dtype: \"", dtype, "\" checkpoint { format: \"", GetParam().format, "\" }");
    JobRun saved = RunJob(GetParam().from.ranks, {Config("saved"), GetParam().from.config, kBefore}, StopAfter(3));
    EXPECT_THAT(saved.statuses, Each(IsOk()));
    return saved;
  }
  JobRun Continued(const std::string& name, const Layout& layout) {
    std::filesystem::copy(directory_ + "/saved", absl::StrCat(directory_, "/", name),
                          std::filesystem::copy_options::recursive);
    JobRun run = RunJob(layout.ranks, {Config(name), layout.config, kNow});
    EXPECT_THAT(run.statuses, Each(IsOk()));
    EXPECT_EQ(run.problem, "");
    return run;
  }

 private:
  std::string Config(const std::string& name) {
    return absl::StrCat(JobConfig(absl::StrCat(directory_, "/", name), data_, 6), " ", common_);
  }

  std::string directory_;
  std::string data_;
  std::string common_;
};

INSTANTIATE_TEST_SUITE_P(Changes, ChangedFreezingTest, ::testing::ValuesIn(kChanges), [](const auto& info) {
  return absl::StrCat(info.param.from.name, "_to_", info.param.to.name);
});

TEST_P(ChangedFreezingTest, OnAnotherMeshWhatStaysTrainedKeepsItsBitsAndWhatIsThawedBegins) {
  for (const std::string dtype : {"float32", "bfloat16"}) {
    const JobRun saved = Saved(dtype);
    const JobRun run = Continued("run", GetParam().to);

    ExpectThawedAndFrozen(run.start, saved.end);
    EXPECT_THAT(run.lines, Contains(HasSubstr("note: frozen: 8 parameters no longer")));
    EXPECT_THAT(run.lines, Contains(HasSubstr("note: frozen: 2 parameters from here on")));
    if (dtype == "float32") {
      const JobRun one = Continued("one_rank", kLayouts[0]);
      ASSERT_EQ(run.losses.size(), 3u);
      for (size_t i = 0; i < 3; ++i) {
        EXPECT_NEAR(run.losses[i], one.losses[i], 1e-5);
        EXPECT_NEAR(run.grad_norms[i], one.grad_norms[i], 1e-4 * one.grad_norms[i]);
      }
    }
  }
}

// A start from another job's optimizer state, and an export: ranks that update parts hold frozen weights as well.
TEST(FrozenPretrainedTest, WeightsComeAndGoWhole) {
  const std::string directory = FreshDirectory("frozen_export");
  const std::string data = TextFile(directory);
  const JobRun source = RunJob(1, {JobConfig(directory + "/source", data, 2), kBefore});
  ASSERT_THAT(source.statuses, Each(IsOk()));
  for (const std::string zero : {"NONE", "OPTIMIZER", "WEIGHTS"}) {
    const JobRun run = RunJob(
        4, {JobConfig(absl::StrCat(directory, "/", zero), data, 1), kNow,
            absl::StrCat("mesh { tensor: 2 zero: ", zero, " } export { format: \"llama\" }",
                         "pretrained { optimizer_state: true path: \"", source.reports[0].checkpoints[0], "\" }")});
    ASSERT_THAT(run.statuses, Each(IsOk()));
    EXPECT_EQ(run.problem, "");
    ExpectThawedAndFrozen(run.start, source.end);

    const JobRun exported = RunJob(1, {JobConfig(absl::StrCat(directory, "/exported_", zero), data, 0),
                                       absl::StrCat("pretrained { path: \"", run.reports[0].exports.at(0), "\" }")});
    ASSERT_THAT(exported.statuses, Each(IsOk()));
    for (const auto& [name, tensor] : exported.start) {
      if (!absl::StrContains(name, '/')) {
        EXPECT_TRUE(tensor.equal(run.end.at(name))) << name;
      }
    }
  }
}

}  // namespace
}  // namespace waypoint::engine
