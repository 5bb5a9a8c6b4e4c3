// A job of many ranks trains as one does.

#include <fstream>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/registry.h"
#include "checkpoint/format/checkpoint_format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/job_run.h"
#include "tests/engine/layouts.h"
#include "tests/engine/tiny_run.h"
#include "tests/testing/one_rank_format.h"
#include "tests/testing/status_matchers.h"

namespace waypoint::engine {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::ResultOf;

constexpr int64_t kSteps = 4;

JobRun Train(const std::string& name, const Layout& layout, const std::vector<std::string>& more,
             const JobOptions& options = {}) {
  const std::string directory = FreshDirectory(absl::StrCat(name, "_", layout.name));
  std::vector<std::string> layers = {JobConfig(directory + "/run", TextFile(directory), kSteps), layout.config};
  layers.insert(layers.end(), more.begin(), more.end());
  return RunJob(layout.ranks, layers, options);
}

void ExpectSameTraining(const JobRun& run, const JobRun& one) {
  ASSERT_THAT(run.statuses, Each(IsOk()));
  EXPECT_EQ(run.problem, "");
  EXPECT_EQ(DifferenceOf(run.start, one.start), "") << "first values";
  ASSERT_EQ(run.losses.size(), one.losses.size());
  for (size_t i = 0; i < one.losses.size(); ++i) {
    EXPECT_NEAR(run.losses[i], one.losses[i], 1e-5) << "step " << i + 1;
    // Also where it is clipped, in every step: a replica counted twice would be seen here.
    EXPECT_NEAR(run.grad_norms[i], one.grad_norms[i], 1e-4 * one.grad_norms[i]) << "step " << i + 1;
  }
}

class ParallelLossTest : public ::testing::TestWithParam<Layout> {};

TEST_P(ParallelLossTest, LossAndGradientNormAreThoseOfOneRank) {
  static const JobRun* const one = new JobRun(Train("loss_reference", kLayouts[0], {}));
  ASSERT_GT(one->losses.front() - one->losses.back(), 0.05);

  ExpectSameTraining(Train("loss", GetParam(), {}), *one);
}

INSTANTIATE_TEST_SUITE_P(Layouts, ParallelLossTest, ::testing::ValuesIn(kLayouts),
                         [](const auto& info) { return std::string(info.param.name); });

class ParallelTiedTest : public ::testing::TestWithParam<Layout> {};

TEST_P(ParallelTiedTest, TiedEmbeddingsStayOneParameter) {
  const std::string tied = "model { tied_embedding_weight: true }";
  static const JobRun* const one = new JobRun(Train("tied_reference", kLayouts[0], {tied}));

  ExpectSameTraining(Train("tied", GetParam(), {tied}), *one);
}

INSTANTIATE_TEST_SUITE_P(Layouts, ParallelTiedTest, ::testing::ValuesIn(kSomeLayouts),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(ParallelTest, SixteenBitsWithMastersTrainAlmostAlike) {
  const std::string bfloat16 = "dtype: \"bfloat16\"";
  const JobRun one = Train("bfloat16_reference", kLayouts[0], {bfloat16});
  for (const Layout& layout : {Layout{"dp2", 2, ""}, Layout{"dp2_weights", 2, "mesh { zero: WEIGHTS }"},
                               Layout{"tp2_pp2", 4, "mesh { tensor: 2 pipeline: 2 }"}}) {
    const JobRun run = Train("bfloat16", layout, {bfloat16});
    ASSERT_THAT(run.statuses, Each(IsOk()));
    EXPECT_EQ(run.problem, "");
    EXPECT_EQ(DifferenceOf(run.start, one.start), "");
    for (size_t i = 0; i < one.losses.size(); ++i) {
      EXPECT_NEAR(run.losses[i], one.losses[i], 0.02) << layout.name;  // bfloat16 has 8 bits
    }
  }
}

TEST(ParallelTest, AStopOnAnyRankSavesAndStopsAll) {
  JobOptions options;
  options.stop_after = 2;
  options.stopping_rank = 3;

  const JobRun run = Train("stop", {"tp2_pp2", 4, "mesh { tensor: 2 pipeline: 2 }"}, {}, options);

  ASSERT_THAT(run.statuses, Each(IsOk()));
  for (const TrainReport& report : run.reports) {
    EXPECT_TRUE(report.stopped);
    EXPECT_EQ(report.last_step, 2);
    ASSERT_EQ(report.checkpoints.size(), 1u);
    EXPECT_EQ(report.checkpoints[0], run.reports[0].checkpoints[0]);
  }
}

TEST(ParallelTest, ARankThatEndsIsNamedByAllOthers) {
  JobOptions options;
  options.before_run = [](int rank, Trainer&) {
    return rank == 2 ? MakeError(ErrorKind::kIo, "its disk is gone") : absl::OkStatus();
  };

  const JobRun run = Train("gone", {"tp2_pp2", 4, "mesh { tensor: 2 pipeline: 2 }"}, {}, options);

  EXPECT_THAT(run.statuses[2], IsKind(ErrorKind::kIo));
  for (const int rank : {0, 1, 3}) {
    EXPECT_THAT(run.statuses[rank], IsKind(ErrorKind::kRank, HasSubstr("rank 2"))) << rank;
  }
}

TEST(ParallelTest, ARankWithAnErrorOfItsOwnIsQuotedByAllOthers) {
  const std::string directory = FreshDirectory("quoted");
  const std::string good = TextFile(directory);
  const std::string bad = JoinPath(directory, "bad.txt");
  std::ofstream(bad, std::ios::binary) << std::string(4096, '\xff');
  JobOptions options;
  options.config_of_rank = [&](int rank) {
    return rank == 1 ? absl::StrCat("data { path: \"", bad, "\" }") : std::string();
  };

  const JobRun run = RunJob(3, {JobConfig(directory + "/run", good, 4)}, options);

  EXPECT_THAT(run.statuses[1], IsKind(ErrorKind::kRequest, HasSubstr("vocabulary has 131")));
  for (const int rank : {0, 2}) {
    EXPECT_THAT(run.statuses[rank], IsKind(ErrorKind::kRank, AllOf(HasSubstr("rank 1 failed: E_REQUEST"),
                                                                   HasSubstr("vocabulary has 131"))));
  }
}

TEST(ParallelTest, MeshesThatDoNotFitAreRefusedOnAllRanks) {
  const auto statuses = [](int ranks, const std::string& config) {
    return Train("refused", {"mesh", ranks, config.c_str()}, {}).statuses;
  };
  EXPECT_THAT(statuses(3, "mesh { tensor: 2 }"), Each(IsKind(ErrorKind::kRequest, HasSubstr("divides the 3 ranks"))));
  EXPECT_THAT(statuses(2, "data { batch_size: 9 }"),
              Each(IsKind(ErrorKind::kRequest, HasSubstr("data.batch_size: got 9, wanted a multiple of 2"))));
  EXPECT_THAT(statuses(2,
                       "mesh { tensor: 2 } model { decoder { fixed { mixer { attention { heads: 3 head_groups: 1 }"
                       "} } } }"),
              Each(IsKind(ErrorKind::kRequest, AllOf(HasSubstr("heads is 3, which 2 tensor ranks do not divide"),
                                                     HasSubstr("head_groups is 1")))));
  EXPECT_THAT(statuses(2, "checkpoint { format: \"llama\" }"),
              Each(IsKind(ErrorKind::kRequest, HasSubstr("checkpoint.format"))));
}

std::unique_ptr<CheckpointFormat> NewOneRankFormat() { return std::make_unique<OneRankFormat>(/*external=*/true); }
WAYPOINT_REGISTER(CheckpointFormat, "one_rank", NewOneRankFormat);

TEST(ParallelTest, ExportsThatManyRanksCannotWriteAreRefusedAtTheStart) {
  const JobRun run = Train("export", {"dp2", 2, "export { format: \"one_rank\" }"}, {});

  EXPECT_THAT(run.statuses, Each(IsKind(ErrorKind::kUnsupported, HasSubstr("\"one_rank\" is written by one rank"))));
  EXPECT_TRUE(run.losses.empty());
}

TEST(ParallelTest, ExportsThatTheFormatCannotHoldAreRefusedByAllRanksAtTheStart) {
  // The model of these runs has biases, Meta's has none.
  const JobRun run = Train("biases", {"tp2", 2, "mesh { tensor: 2 } export { format: \"reference\" }"}, {});

  EXPECT_THAT(run.statuses, Each(Not(IsOk())));
  EXPECT_THAT(run.statuses, Each(ResultOf([](const absl::Status& status) { return std::string(status.message()); },
                                          HasSubstr("export as \"reference\""))));
  EXPECT_TRUE(run.losses.empty());
}

}  // namespace
}  // namespace waypoint::engine
