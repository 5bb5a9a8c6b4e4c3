// Parameters that a run does not train.

#include "engine/frozen.h"

#include <cmath>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/checkpointer/checkpointer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/tiny_run.h"
#include "tests/testing/status_matchers.h"

namespace waypoint::engine {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

TrainConfig Frozen(const std::string& frozen) {
  ConfigLayers layers;
  EXPECT_OK(layers.AddText(absl::StrCat(TinyModel(), " frozen: ", frozen), "test"));
  return layers.Merged({});
}

TEST(IsFrozenTest, PatternsAreLeadingSegments) {
  const auto matches = [](const std::string& pattern, const std::string& name) {
    TrainConfig config;
    config.add_frozen(pattern);
    return IsFrozen(config, name);
  };
  EXPECT_TRUE(matches("decoder.1", "decoder.1.norm_1.weight"));
  EXPECT_TRUE(matches("decoder", "decoder.1.norm_1.weight"));
  EXPECT_TRUE(matches("decoder.1.norm_1.weight", "decoder.1.norm_1.weight"));
  EXPECT_TRUE(matches("decoder.*.norm_*", "decoder.10.norm_2.weight"));
  EXPECT_TRUE(matches("*.*.*.weight", "decoder.1.norm_1.weight"));
  EXPECT_TRUE(matches("*", "decoder.1.norm_1.weight"));

  EXPECT_FALSE(matches("decoder.1", "decoder.10.norm_1.weight"));
  EXPECT_FALSE(matches("decoder.*.weight", "decoder.1.norm_1.weight"));
  EXPECT_FALSE(matches("norm_1", "decoder.1.norm_1.weight"));
  EXPECT_FALSE(matches("decoder.1.norm_1.weight.more", "decoder.1.norm_1.weight"));
  EXPECT_FALSE(matches("", "decoder.1.norm_1.weight"));
  EXPECT_FALSE(IsFrozen({}, "decoder.1.norm_1.weight"));
}

TEST(CheckFrozenTest, PatternsWithoutAParameterAreNamedWithSomeThatThereAre) {
  EXPECT_OK(CheckFrozen(Frozen("[\"embeddings\", \"decoder.*.norm_1\"]")));
  EXPECT_THAT(CheckFrozen(Frozen("[\"decoder.2\", \"decoder.1\", \"norm\"]")),
              IsKind(ErrorKind::kRequest,
                     AllOf(HasSubstr("no parameter matches \"decoder.2\", \"norm\""), Not(HasSubstr("\"decoder.1\"")),
                           HasSubstr("there are embeddings.word_embeddings_weight, decoder.0."), HasSubstr("more"))));
}

TEST(CheckFrozenTest, SomethingMustBeLeftToTrain) {
  EXPECT_THAT(CheckFrozen(Frozen("[\"embeddings\", \"decoder\", \"head\"]")),
              IsKind(ErrorKind::kRequest, HasSubstr("nothing to train")));
}

TEST(CompareFreezingTest, NamesBothDirectionsInTheModelsOrder) {
  const FreezingChange change = CompareFreezing(Frozen("[\"head\", \"embeddings\", \"decoder.0.norm_1\"]"),
                                                Frozen("[\"decoder.*.norm_1\", \"decoder.0.norm_2\"]"));

  EXPECT_THAT(change.thawed,
              ElementsAre("embeddings.word_embeddings_weight", "head.final_norm.weight", "head.output_weights"));
  EXPECT_THAT(change.frozen, ElementsAre("decoder.0.norm_2.weight", "decoder.1.norm_1.weight"));
  EXPECT_THAT(FreezingNotes(change),
              ElementsAre(AllOf(HasSubstr("3 parameters no longer"), HasSubstr("embeddings.word_embeddings_weight")),
                          AllOf(HasSubstr("2 parameters from here on"), HasSubstr("decoder.1.norm_1.weight"))));
  EXPECT_THAT(FreezingNotes({}), IsEmpty());
}

std::map<std::string, at::Tensor> Copy(const LiveState& state) {
  std::map<std::string, at::Tensor> copy;
  for (const LiveTensor& live : state) {
    copy[live.name] = live.tensor.clone();
  }
  return copy;
}

absl::StatusOr<std::unique_ptr<Trainer>> NewTrainer(const std::vector<std::string>& layers,
                                                    const TrainerOptions& options) {
  ConfigLayers config;
  for (const std::string& layer : layers) {
    EXPECT_OK(config.AddText(layer, "config"));
  }
  return Trainer::Create(config, options);
}

TEST(FrozenTest, FrozenParametersKeepTheirBitsAndHaveNoState) {
  for (const std::string dtype : {"float32", "bfloat16"}) {
    const std::string directory = FreshDirectory("bits_" + dtype);
    const std::string config = TinyConfig(directory + "/run", TextFile(directory), 3);
    ASSERT_OK_AND_ASSIGN(const auto trainer,
                         NewTrainer({config, absl::StrCat("dtype: \"", dtype, "\" optimizer { weight_decay: 0.5 }"),
                                     "frozen: [\"embeddings\", \"decoder.0\"]"},
                                    Quiet()));
    const auto before = Copy(trainer->state().Tensors());
    ASSERT_OK(trainer->Run());
    const auto after = Copy(trainer->state().Tensors());

    ASSERT_EQ(after.size(), before.size());
    for (const auto& [name, tensor] : after) {
      const bool frozen = IsFrozen(trainer->config(), name);
      EXPECT_FALSE(frozen && absl::StrContains(name, '/')) << name;
      EXPECT_EQ(tensor.equal(before.at(name)), frozen) << name;
    }
  }
}

// What is frozen is not in the norm: of two halves the squares add up to that of the whole.
TEST(FrozenTest, TheNormIsThatOfWhatIsTrained) {
  const std::string directory = FreshDirectory("norm");
  const std::string data = TextFile(directory);
  std::map<std::string, double> norms;
  for (const std::string frozen : {"", "frozen: [\"decoder\"]", "frozen: [\"embeddings\", \"head\"]"}) {
    TrainerOptions options = Quiet();
    options.on_step = [&](const StepMetrics& metrics) { norms[frozen] = metrics.grad_norm; };
    ASSERT_OK(RunTraining({TinyConfig(FreshDirectory("norm_run"), data, 1), frozen}, options));
  }

  const double decoder = norms["frozen: [\"embeddings\", \"head\"]"];
  const double rest = norms["frozen: [\"decoder\"]"];
  EXPECT_GT(decoder, 0);
  EXPECT_GT(rest, 0);
  EXPECT_NEAR(std::sqrt(decoder * decoder + rest * rest), norms[""], 1e-5 * norms[""]);
}

TEST(FrozenTest, APatternThatMeetsNothingIsRefusedAtTheStart) {
  const std::string directory = FreshDirectory("pattern");

  EXPECT_THAT(RunTraining({TinyConfig(directory, TextFile(directory), 1), "frozen: \"decoder.7\""}, Quiet()),
              IsKind(ErrorKind::kRequest, HasSubstr("\"decoder.7\"")));
}

TEST(FrozenTest, AnEmptyListThawsWhatALowerLayerFroze) {
  ConfigLayers layers;
  ASSERT_OK(layers.AddText("frozen: \"decoder\"", "file"));
  ASSERT_OK(layers.AddOverride("frozen=[]"));

  EXPECT_THAT(layers.Merged({}).frozen(), IsEmpty());
}

// The first update with moments of zero moves every element by the learning rate; as the fourth of moments that are
// zero it would be 0.56 of that.
TEST(ThawedTest, TheFirstUpdateIsCorrectedAsAFirstOne) {
  const std::string directory = FreshDirectory("first_update");
  const std::string config = TinyConfig(directory + "/run", TextFile(directory), 4);
  const std::string norm = "head.final_norm.weight";
  ASSERT_OK(RunTraining({config, "frozen: \"head.final_norm\""}, Quiet(/*stop_after=*/3)));
  TrainerOptions options = Quiet();
  double rate = 0;
  options.on_step = [&](const StepMetrics& metrics) { rate = metrics.lr; };
  ASSERT_OK_AND_ASSIGN(const auto trainer, NewTrainer({config}, options));
  const auto before = Copy(trainer->state().Tensors());
  ASSERT_OK(trainer->Run());

  const at::Tensor moved = Copy(trainer->state().Tensors()).at(norm).sub(before.at(norm)).abs();
  EXPECT_FALSE(before.at(norm + "/exp_avg").any().item<bool>());
  EXPECT_NEAR(moved.max().item<double>(), rate, 0.001 * rate);
  EXPECT_NEAR(moved.min().item<double>(), rate, 0.01 * rate);
}

// A checkpoint whose config says that everything is trained must hold all moments.
TEST(ThawedTest, MomentsThatAreMissingForAnotherReasonAreNotMadeUp) {
  const std::string directory = FreshDirectory("missing");
  const std::string config = TinyConfig(directory + "/run", TextFile(directory), 4);
  ASSERT_OK_AND_ASSIGN(const FinishedRun first,
                       RunTraining({config, "frozen: \"embeddings\""}, Quiet(/*stop_after=*/2)));
  FileSystem& fs = PosixFileSystem();
  const std::string saved = first.report.checkpoints[0];
  ASSERT_OK_AND_ASSIGN(CheckpointFormat * format, DetectFormat(fs, saved));
  ASSERT_OK_AND_ASSIGN(OpenedCheckpoint opened, format->Open(fs, saved, {}));
  ASSERT_OK_AND_ASSIGN(TrainConfig stored, ParsePrintedConfig(opened.metadata.training().trainer_config(), "stored"));
  stored.clear_frozen();
  opened.metadata.mutable_training()->set_trainer_config(PrintConfig(stored));
  ASSERT_OK(WriteCheckpoint(fs, directory + "/other/checkpoint/step-00000002", {}, opened.metadata, *opened.tensors,
                            opened.assets));

  EXPECT_OK(RunTraining({config}, Quiet()));
  EXPECT_THAT(RunTraining({config, absl::StrCat("output: \"", directory, "/other\"")}, Quiet()),
              IsKind(ErrorKind::kMissing, HasSubstr("embeddings.word_embeddings_weight/exp_avg")));
}

TEST(ThawedTest, WhereAParameterBeganMustBeAStepOfTheOptimizer) {
  const std::string directory = FreshDirectory("begin");
  const std::string config = TinyConfig(directory + "/run", TextFile(directory), 4);
  ASSERT_OK_AND_ASSIGN(const FinishedRun first, RunTraining({config}, Quiet(/*stop_after=*/2)));
  FileSystem& fs = PosixFileSystem();
  ASSERT_OK_AND_ASSIGN(CheckpointFormat * format, DetectFormat(fs, first.report.checkpoints[0]));
  ASSERT_OK_AND_ASSIGN(OpenedCheckpoint opened, format->Open(fs, first.report.checkpoints[0], {}));
  auto& scalars = *opened.metadata.mutable_training()->mutable_optimizer_scalars();
  for (const double begin : {3.0, -1.0}) {
    scalars["begin/head.final_norm.weight"] = begin;
    const std::string other = absl::StrCat(directory, "/other_", begin);
    ASSERT_OK(
        WriteCheckpoint(fs, other + "/checkpoint/step-00000002", {}, opened.metadata, *opened.tensors, opened.assets));

    EXPECT_THAT(RunTraining({config, absl::StrCat("output: \"", other, "\"")}, Quiet()),
                IsKind(ErrorKind::kSchema, HasSubstr("begin/head.final_norm.weight")));
  }
}

TEST(ThawedTest, PretrainedOptimizerStateComesWithWhatWasFrozen) {
  const std::string directory = FreshDirectory("pretrained");
  const std::string data = TextFile(directory);
  ASSERT_OK_AND_ASSIGN(const FinishedRun source,
                       RunTraining({TinyConfig(directory + "/source", data, 2), "frozen: [\"decoder.0\"]"}, Quiet()));
  std::string printed;
  TrainerOptions options = Quiet();
  options.print = [&printed](const std::string& line) { absl::StrAppend(&printed, line, "\n"); };
  ASSERT_OK_AND_ASSIGN(
      const auto trainer,
      NewTrainer({TinyConfig(directory + "/run", data, 1), "frozen: \"head\"",
                  absl::StrCat("pretrained { optimizer_state: true path: \"", source.report.checkpoints[0], "\" }")},
                 options));

  const auto was = Copy(source.trainer->state().Tensors());
  for (const auto& [name, tensor] : Copy(trainer->state().Tensors())) {
    const auto saved = was.find(name);
    EXPECT_EQ(saved == was.end(), absl::StrContains(name, "decoder.0.") && absl::StrContains(name, '/')) << name;
    EXPECT_TRUE(saved == was.end() ? !tensor.any().item<bool>() : tensor.equal(saved->second)) << name;
  }
  EXPECT_THAT(printed, AllOf(HasSubstr("note: frozen: 7 parameters no longer"),
                             HasSubstr("note: frozen: 2 parameters from here on")));
  const TrainingState described = trainer->state().Describe();
  EXPECT_EQ(described.optimizer_scalars().at("begin/decoder.0.norm_1.weight"), 2);
}

}  // namespace
}  // namespace waypoint::engine
