#include "engine/config.h"

#include <fstream>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace waypoint::engine {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

ConfigLayers Layers(std::initializer_list<const char*> texts) {
  ConfigLayers layers;
  for (const char* text : texts) {
    const absl::Status status = layers.AddText(text, "test");
    EXPECT_TRUE(status.ok()) << status;
  }
  return layers;
}

TrainConfig Parsed(const char* text) { return Layers({text}).Merged({}); }

absl::Status OverrideStatus(absl::string_view assignment) {
  ConfigLayers layers;
  return layers.AddOverride(assignment);
}

TrainConfig Overridden(const char* base, absl::string_view assignment) {
  ConfigLayers layers = Layers({base});
  const absl::Status status = layers.AddOverride(assignment);
  EXPECT_TRUE(status.ok()) << status;
  return layers.Merged({});
}

TEST(ConfigLayersTest, LaterLayersWinFieldByField) {
  const TrainConfig config =
      Layers({"steps: 1 optimizer { lr: 1 eps: 2 }", "optimizer { lr: 3 }", "steps: 4"}).Merged({});

  EXPECT_EQ(config.steps(), 4);
  EXPECT_EQ(config.optimizer().lr(), 3);
  EXPECT_EQ(config.optimizer().eps(), 2);
}

TEST(ConfigLayersTest, ExplicitZeroAndFalseReplaceTheBase) {
  const TrainConfig base = Parsed("model { hidden_size: 8 tied_embedding_weight: true } optimizer { weight_decay: 1 }");

  const TrainConfig merged =
      Layers({"model { tied_embedding_weight: false } optimizer { weight_decay: 0 }"}).Merged(base);

  EXPECT_FALSE(merged.model().tied_embedding_weight());
  EXPECT_EQ(merged.model().hidden_size(), 8);
  EXPECT_TRUE(merged.optimizer().has_weight_decay());
  EXPECT_EQ(merged.optimizer().weight_decay(), 0);
}

TEST(ConfigLayersTest, ListsAreReplacedAsAWhole) {
  const TrainConfig base = Parsed("optimizer { betas: [0.1, 0.2] lr: 5 }");

  EXPECT_THAT(Layers({"optimizer { betas: [0.3, 0.4] }"}).Merged(base).optimizer().betas(), ElementsAre(0.3, 0.4));
  EXPECT_EQ(Layers({"optimizer { betas: [0.3] }"}).Merged(base).optimizer().lr(), 5);
}

TEST(ConfigLayersTest, MapsMergeEntryByEntry) {
  const TrainConfig base = Parsed(R"(model { decoder { pattern {
      blocks { key: "a" value { dropout: 1 output_scale: true } }
      blocks { key: "b" value { dropout: 2 } } } } })");

  const TrainConfig merged = Layers({R"(model { decoder { pattern {
      blocks { key: "c" value { dropout: 5 } }
      blocks { key: "a" value { dropout: 3 } } } } })"})
                                 .Merged(base);

  const auto& blocks = merged.model().decoder().pattern().blocks();
  ASSERT_EQ(blocks.size(), 3);
  EXPECT_EQ(blocks.at("a").dropout(), 3);
  EXPECT_TRUE(blocks.at("a").output_scale());
  EXPECT_EQ(blocks.at("b").dropout(), 2);
  EXPECT_EQ(blocks.at("c").dropout(), 5);
}

TEST(ConfigLayersTest, AnotherOneofMemberReplacesTheFirst) {
  const TrainConfig base = Parsed("model { decoder { fixed { mlp { dense { intermediate_size: 4 } } } } }");

  const TrainConfig merged = Layers({"model { decoder { fixed { mlp { moe { experts: 2 } } } } }"}).Merged(base);

  EXPECT_TRUE(merged.model().decoder().fixed().mlp().has_moe());
  EXPECT_FALSE(merged.model().decoder().fixed().mlp().has_dense());
}

TEST(ConfigLayersTest, UnknownFieldNamesLineAndChoices) {
  ConfigLayers layers;

  const absl::Status status = layers.AddText("steps: 1\noptimizer {\n  lrr: 2\n}", "\"run.textproto\"");

  EXPECT_EQ(GetErrorKind(status), ErrorKind::kRequest);
  EXPECT_THAT(std::string(status.message()), HasSubstr("\"run.textproto\":3:"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("no field \"lrr\" in AdamWConfig, which has lr, betas, eps"));
}

TEST(ConfigLayersTest, TheSameFieldTwiceIsRefused) {
  ConfigLayers layers;

  EXPECT_EQ(GetErrorKind(layers.AddText("steps: 1 steps: 2", "test")), ErrorKind::kRequest);
}

TEST(ConfigLayersTest, MissingFileIsAnIoError) {
  ConfigLayers layers;

  const absl::Status status = layers.AddFile(PosixFileSystem(), ::testing::TempDir() + "/none.textproto");

  EXPECT_EQ(GetErrorKind(status), ErrorKind::kIo);
}

TEST(OverrideTest, SetsScalarsOfEveryKind) {
  EXPECT_EQ(Overridden("", "optimizer.lr=1e-4").optimizer().lr(), 1e-4);
  EXPECT_EQ(Overridden("steps: 7", "steps=12").steps(), 12);
  EXPECT_EQ(Overridden("", "data.kind=BYTES").data().kind(), Dataset::BYTES);
  EXPECT_FALSE(
      Overridden("pretrained { model_weights: true }", "pretrained.model_weights=false").pretrained().model_weights());
}

TEST(OverrideTest, StringsNeedNoQuotes) {
  EXPECT_EQ(Overridden("", "output=run/a b").output(), "run/a b");
  EXPECT_EQ(Overridden("", "output=\"run\"").output(), "run");
  EXPECT_EQ(Overridden("", "data.path=x=y").data().path(), "x=y");
  EXPECT_EQ(Overridden("output: \"x\"", "output=").output(), "");
}

TEST(OverrideTest, ListsAndMessages) {
  EXPECT_THAT(Overridden("optimizer { betas: [1, 2] }", "optimizer.betas=[0.8, 0.9]").optimizer().betas(),
              ElementsAre(0.8, 0.9));
  EXPECT_THAT(Overridden("", "model.decoder.pattern.pattern=[a, b]").model().decoder().pattern().pattern(),
              ElementsAre("a", "b"));
  EXPECT_EQ(Overridden("export { interval: 2 }", "export={format: \"llama\"}").export_().interval(), 2);
}

TEST(OverrideTest, GoesThroughMaps) {
  const TrainConfig config = Overridden(R"(model { decoder { pattern { blocks { key: "a" value { dropout: 1 } } } } })",
                                        "model.decoder.pattern.blocks.a.mlp.dense.gated=true");

  const auto& block = config.model().decoder().pattern().blocks().at("a");
  EXPECT_TRUE(block.mlp().dense().gated());
  EXPECT_EQ(block.dropout(), 1);
}

TEST(OverrideTest, UnknownKeysListTheFieldsThere) {
  const absl::Status top = OverrideStatus("optimiser.lr=1");
  const absl::Status nested = OverrideStatus("schedule.warmup=1");

  EXPECT_EQ(GetErrorKind(top), ErrorKind::kRequest);
  EXPECT_THAT(std::string(top.message()),
              HasSubstr("no field \"optimiser\" in TrainConfig, which has model, pretrained"));
  EXPECT_THAT(std::string(nested.message()), HasSubstr("which has warmup_steps, decay_steps, min_ratio"));
}

TEST(OverrideTest, WrongShapesOfKeysAreRefused) {
  for (const char* assignment : {"steps", "=1", "steps.=1", "steps.x=1", "optimizer=1", "optimizer.betas.0=1"}) {
    EXPECT_EQ(GetErrorKind(OverrideStatus(assignment)), ErrorKind::kRequest) << assignment;
  }
}

TEST(OverrideTest, WrongValuesAreRefused) {
  EXPECT_EQ(GetErrorKind(OverrideStatus("steps=many")), ErrorKind::kRequest);
  EXPECT_EQ(GetErrorKind(OverrideStatus("steps=1 seed: 2")), ErrorKind::kRequest);
  EXPECT_THAT(std::string(OverrideStatus("data.kind=WORDS").message()), HasSubstr("TOKENS_U16, TOKENS_I32, BYTES"));
}

constexpr char kMinimal[] = R"(steps: 10 output: "run" data { path: "x" kind: BYTES })";

TEST(FillAndCheckTest, DefaultsAreFilledIn) {
  TrainConfig config = Parsed(kMinimal);

  ASSERT_TRUE(FillAndCheck(config).ok());

  EXPECT_EQ(config.dtype(), "float32");
  EXPECT_EQ(config.schedule().decay_steps(), 10);
  EXPECT_EQ(config.checkpoint().keep(), 5);
  EXPECT_EQ(config.checkpoint().interval(), 0);
  EXPECT_THAT(config.optimizer().betas(), ElementsAre(0.9, 0.95));
  EXPECT_FALSE(config.has_export_());
}

TEST(FillAndCheckTest, WhatIsSetStays) {
  TrainConfig config = Parsed(kMinimal);
  config.mutable_optimizer()->set_weight_decay(0);
  config.mutable_checkpoint()->set_keep(0);

  ASSERT_TRUE(FillAndCheck(config).ok());

  EXPECT_EQ(config.optimizer().weight_decay(), 0);
  EXPECT_EQ(config.checkpoint().keep(), 0);
}

TEST(FillAndCheckTest, AllProblemsComeTogether) {
  TrainConfig config =
      Parsed(R"(dtype: "int8" optimizer { lr: -1 betas: [1] } export { dtype: "f8" } checkpoint { interval: -2 })");

  const absl::Status status = FillAndCheck(config);

  EXPECT_EQ(GetErrorKind(status), ErrorKind::kRequest);
  for (const char* part : {"steps: must be set", "output: must be set", "data.path", "data.kind", "dtype: got int8",
                           "optimizer.lr: got -1", "optimizer.betas: got [1]", "export.format", "export.dtype",
                           "checkpoint.interval: got -2"}) {
    EXPECT_THAT(std::string(status.message()), HasSubstr(part));
  }
}

TEST(FillAndCheckTest, DefaultsOfManyRanksAreTheirOwn) {
  TrainConfig one = Parsed(kMinimal);
  TrainConfig many = Parsed(absl::StrCat(kMinimal, " mesh { pipeline: 2 }").c_str());

  ASSERT_TRUE(FillAndCheck(one).ok());
  ASSERT_TRUE(FillAndCheck(many, 4).ok());

  EXPECT_EQ(one.checkpoint().format(), "native");
  EXPECT_EQ(one.mesh().micro_batches(), 1);
  EXPECT_EQ(many.checkpoint().format(), "distributed");
  EXPECT_EQ(many.mesh().tensor(), 1);
  EXPECT_EQ(many.mesh().micro_batches(), 2);
  EXPECT_EQ(many.mesh().zero(), MeshConfig::NONE);
}

TEST(FillAndCheckTest, MeshesThatDoNotFitTheJobAreProblems) {
  TrainConfig config =
      Parsed(absl::StrCat(kMinimal, " mesh { tensor: 3 micro_batches: 0 timeout_seconds: 0 }").c_str());
  EXPECT_THAT(std::string(FillAndCheck(config, 4).message()),
              AllOf(HasSubstr("mesh: got pipeline 1 and tensor 3"), HasSubstr("divides the 4 ranks"),
                    HasSubstr("mesh.micro_batches: got 0"), HasSubstr("mesh.timeout_seconds: got 0")));

  config = Parsed(absl::StrCat(kMinimal, " mesh { micro_batches: 3 }").c_str());
  EXPECT_THAT(std::string(FillAndCheck(config, 2).message()),
              HasSubstr("data.batch_size: got 8, wanted a multiple of 6: 2 data ranks of 3 micro-batches"));
}

TEST(PrintConfigTest, PrintedConfigsParseBack) {
  TrainConfig config = Parsed(kMinimal);
  ASSERT_TRUE(FillAndCheck(config).ok());

  const auto parsed = ParsePrintedConfig(PrintConfig(config), "test");

  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(PrintConfig(*parsed), PrintConfig(config));
  EXPECT_EQ(GetErrorKind(ParsePrintedConfig("nothing: 1", "test").status()), ErrorKind::kSchema);
}

TEST(CompareConfigsTest, WhatAnEarlierVersionDidNotKnowIsNoDifference) {
  const TrainConfig before = Parsed("checkpoint { interval: 3 keep: 5 keep_every: 0 async: COPY format: \"native\" }");
  TrainConfig now = before;
  FillAndCheck(now).IgnoreError();

  for (const std::string& difference : CompareConfigs(before, now)) {
    EXPECT_THAT(difference, Not(AnyOf(HasSubstr("checkpoint"), HasSubstr("mesh"))));
  }
  now.mutable_checkpoint()->set_keep_best(2);
  EXPECT_THAT(CompareConfigs(before, now), Contains("checkpoint.keep_best: 0 -> 2"));
}

// They are given for one start, by who makes it.
TEST(CompareConfigsTest, ConsentsAreNoDifference) {
  TrainConfig before = Parsed(kMinimal);
  ASSERT_TRUE(FillAndCheck(before).ok());
  TrainConfig now = before;
  now.set_start_over(true);
  now.mutable_data()->set_allow_changed(true);
  now.mutable_resume()->set_on_damage(ResumePolicy::STOP);

  EXPECT_THAT(CompareConfigs(before, now), ::testing::IsEmpty());
}

TEST(FillAndCheckTest, AnExportIsSwitchedOffByItsFormat) {
  for (const char* format : {"none", ""}) {
    TrainConfig config = Parsed(absl::StrCat(kMinimal, " export { format: \"", format, "\" interval: 3 }").c_str());

    ASSERT_TRUE(FillAndCheck(config).ok()) << format;

    EXPECT_FALSE(config.has_export_()) << format;
  }
}

TEST(FillAndCheckTest, WhatCheckpointsCannotBeIsNamed) {
  TrainConfig config = Parsed(
      "steps: 1 output: \"o\" data { path: \"d\" kind: BYTES } checkpoint { keep_best: -1 best_metric: \"bleu\" "
      "when_busy: WHEN_BUSY_UNSPECIFIED max_snapshot_bytes: -2 }");

  EXPECT_THAT(
      std::string(FillAndCheck(config).message()),
      AllOf(HasSubstr("checkpoint.keep_best: got -1"), HasSubstr("checkpoint.best_metric: got bleu, wanted loss"),
            HasSubstr("checkpoint.when_busy: got 0"), HasSubstr("checkpoint.max_snapshot_bytes: got -2")));
}

TEST(FillAndCheckTest, TypesAreTakenAsPeopleWriteThemAndKeptInOneSpelling) {
  for (const char* word : {"bf16", "BF16", "bfloat16", "torch.bfloat16"}) {
    TrainConfig config =
        Parsed("steps: 1 output: \"o\" data { path: \"d\" kind: BYTES } export { format: \"llama\" dtype: \"half\" }");
    config.set_dtype(word);
    const std::string problems(FillAndCheck(config).message());

    EXPECT_THAT(problems, Not(HasSubstr("dtype"))) << word;
    EXPECT_EQ(config.dtype(), "bfloat16") << word;
    EXPECT_EQ(config.export_().dtype(), "float16") << word;
  }
  TrainConfig config = Parsed("dtype: \"fp16\"");
  EXPECT_THAT(std::string(FillAndCheck(config).message()),
              HasSubstr("dtype: got float16, wanted float32 (fp32) or bfloat16 (bf16)"));
}

TEST(CheckpointTimeoutTest, IsTheMeshsUnlessItIsSet) {
  EXPECT_EQ(CheckpointTimeout(Parsed("mesh { timeout_seconds: 2.5 }")), absl::Seconds(2.5));
  EXPECT_EQ(CheckpointTimeout(Parsed("mesh { timeout_seconds: 2 } checkpoint { timeout_seconds: 9 }")),
            absl::Seconds(9));
  EXPECT_EQ(CheckpointTimeout({}), absl::Seconds(600));
}

// Ranks must be able to tell each other so.
TEST(CheckpointTimeoutTest, OfAWrongConfigIsTheDefault) {
  TrainConfig config =
      Parsed("steps: 1 output: \"o\" data { path: \"d\" kind: BYTES } checkpoint { timeout_seconds: -1 }");

  EXPECT_EQ(CheckpointTimeout(config), absl::Seconds(600));
  EXPECT_THAT(std::string(FillAndCheck(config).message()), HasSubstr("checkpoint.timeout_seconds: got -1"));
}

TEST(FillAndCheckTest, WhatExportsSayMustBeTrueOfTheRun) {
  TrainConfig config = Parsed(
      "data { sequence_length: 3000 } model { vocab_size: 256 } "
      "describe { max_position_embeddings: 2048 bos_token_id: 256 eos_token_id: [2, -1] pad_token_id: 0 }");
  const std::string message(FillAndCheck(config).message());
  for (const char* part : {"describe.max_position_embeddings: got 2048", "at least data.sequence_length, 3000",
                           "describe.bos_token_id: got 256", "describe.eos_token_id: got -1"}) {
    EXPECT_THAT(message, HasSubstr(part));
  }
  EXPECT_THAT(message, testing::Not(HasSubstr("pad_token_id")));
}

// Threads of a config took gigabytes; a checkpoint's config may be anybody's.
TEST(FillAndCheckTest, NumbersOutOfTheRangesOfTheirFieldsAreNamed) {
  TrainConfig config = Parsed("threads: 100000 checkpoint { keep: 9000000000000 } mesh { timeout_seconds: 1e300 }");
  const std::string message(FillAndCheck(config).message());
  for (const char* part : {"threads: got 100000, wanted 0 to 512", "checkpoint.keep: got 9000000000000",
                           "mesh.timeout_seconds: got 1e+300"}) {
    EXPECT_THAT(message, HasSubstr(part));
  }
}

TEST(CompareConfigsTest, NamesWhatDiffersButForTheModel) {
  const TrainConfig before = Parsed("steps: 1 optimizer { lr: 0.5 } model { hidden_size: 1 }");
  const TrainConfig now = Parsed("steps: 2 optimizer { lr: 0.25 } model { hidden_size: 2 }");

  EXPECT_THAT(CompareConfigs(before, now), ElementsAre("optimizer.lr: 0.5 -> 0.25", "steps: 1 -> 2"));
  EXPECT_THAT(CompareConfigs(before, before), ElementsAre());
}

}  // namespace
}  // namespace waypoint::engine
