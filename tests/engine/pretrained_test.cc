// Starting from a checkpoint of another run or program.

#include <cstring>
#include <fstream>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "engine/trainer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/engine/tiny_run.h"
#include "tests/testing/fixture_copy.h"
#include "tests/testing/status_matchers.h"

namespace waypoint::engine {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

std::string Llama(const std::string& directory) {
  const std::string copy = JoinPath(directory, "llama");
  CopyDirectory("tests/testdata/fixtures/llama2_fp32/hf", PosixFileSystem(), copy);
  return copy;
}

std::string Contents(const std::string& path) {
  std::ostringstream out;
  out << std::ifstream(path, std::ios::binary).rdbuf();
  return out.str();
}

absl::StatusOr<Start> StartOf(const std::vector<std::string>& layers) {
  ConfigLayers config;
  for (const std::string& layer : layers) {
    const absl::Status status = config.AddText(layer, "config");
    EXPECT_TRUE(status.ok()) << status;
  }
  return ResolveStart(PosixFileSystem(), config);
}

// A finished run of two steps, and a config without a model that can start from it.
class PretrainedTest : public ::testing::Test {
 protected:
  void SetUp() override {
    directory_ = FreshDirectory(::testing::UnitTest::GetInstance()->current_test_info()->name());
    data_ = TextFile(directory_);
    ASSERT_OK_AND_ASSIGN(source_, RunTraining({TinyConfig(directory_ + "/source", data_, 2)}, Quiet()));
    path_ = source_.report.checkpoints.back();
    bare_ = absl::StrCat("steps: 0 output: \"", directory_, "/run\" threads: 1 data { path: \"", data_,
                         "\" kind: BYTES sequence_length: 12 }");
  }

  std::string From(const std::string& more) const {
    return absl::StrCat("pretrained { path: \"", path_, "\" ", more, " }");
  }

  std::string directory_;
  std::string data_;
  std::string path_;
  std::string bare_;
  FinishedRun source_;
};

TEST_F(PretrainedTest, ModelIsTheBaseByDefault) {
  ASSERT_OK_AND_ASSIGN(const Start start, StartOf({bare_, From("")}));

  EXPECT_EQ(start.kind, StartKind::kPretrained);
  EXPECT_EQ(PrintConfig(start.config.model()), PrintConfig(source_.trainer->config().model()));
  EXPECT_EQ(start.config.optimizer().lr(), 3e-4);  // not the source's 0.01
  EXPECT_TRUE(start.notes.empty());
}

TEST_F(PretrainedTest, WhatTheUserSetsWinsAndIsNoted) {
  ASSERT_OK_AND_ASSIGN(const Start start, StartOf({bare_, From(""), "model { head { logits_scale_factor: 2 } }"}));

  EXPECT_EQ(start.config.model().head().logits_scale_factor(), 2);
  EXPECT_EQ(start.config.model().hidden_size(), 16);
  ASSERT_EQ(start.notes.size(), 1);
  EXPECT_THAT(start.notes[0], HasSubstr("logits_scale_factor: 1 != 2"));
}

TEST_F(PretrainedTest, FullTakesTheTrainerConfigButNotTheRunsPlace) {
  ASSERT_OK_AND_ASSIGN(const Start start, StartOf({bare_, From("load_config: FULL"), "optimizer { eps: 0.5 }"}));

  EXPECT_EQ(start.config.optimizer().lr(), 0.01);
  EXPECT_EQ(start.config.optimizer().eps(), 0.5);
  EXPECT_EQ(start.config.seed(), 7);
  EXPECT_EQ(start.config.steps(), 0);
  EXPECT_EQ(start.config.output(), directory_ + "/run");
  EXPECT_EQ(start.config.pretrained().path(), path_);
}

TEST_F(PretrainedTest, NoneNeedsAModel) {
  EXPECT_THAT(StartOf({bare_, From("load_config: NONE")}), IsKind(ErrorKind::kRequest, HasSubstr("no model")));
  ASSERT_OK_AND_ASSIGN(const Start start, StartOf({bare_, From("load_config: NONE"), TinyModel()}));

  EXPECT_EQ(start.config.model().hidden_size(), 16);
}

TEST_F(PretrainedTest, AnotherShapeIsRefusedByTensor) {
  EXPECT_THAT(RunTraining({bare_, From(""), "model { decoder { fixed { mlp { dense { intermediate_size: 32 } } } } }"},
                          Quiet()),
              IsKind(ErrorKind::kShape, HasSubstr("layer_1.weight")));
}

// Each of them was trained without what the source has more, and said nothing.
TEST_F(PretrainedTest, WeightsThatTheModelDoesNotTakeAreRefusedTogether) {
  EXPECT_THAT(StartOf({bare_, From(""), "model { tied_embedding_weight: true }"}),
              IsKind(ErrorKind::kExtra, AllOf(HasSubstr("no place for \"head.output_weights\""),
                                              HasSubstr("tied_embedding_weight: false != true"))));
  EXPECT_THAT(StartOf({bare_, From(""), "model { decoder { num_blocks: 1 } }"}),
              IsKind(ErrorKind::kExtra,
                     AllOf(HasSubstr("\"decoder.1.mixer.query.weight\""), HasSubstr("\"decoder.1.norm_2.weight\""))));
  // Without weights there is nothing to drop.
  EXPECT_OK(StartOf({bare_, From("model_weights: false"), "model { decoder { num_blocks: 1 } }"}).status());
}

TEST_F(PretrainedTest, WhatTheModuleCannotTrainIsRefusedByName) {
  const std::string dropout = "model { decoder { fixed { mixer { attention { dropout: 0.5 } } } } }";
  const auto refused =
      IsKind(ErrorKind::kUnsupported, HasSubstr("cannot train 1 part of the config: decoder.fixed.mixer.attention."
                                                "dropout is 0.5"));

  EXPECT_THAT(StartOf({bare_, From(""), dropout}), refused);
  EXPECT_THAT(StartOf({bare_, TinyModel(), dropout}), refused);
  // Of the run itself, continued with it.
  EXPECT_THAT(StartOf({TinyConfig(directory_ + "/source", data_, 3), dropout}), refused);
}

TEST_F(PretrainedTest, WeightsComeAlongAndTheStepDoesNot) {
  ASSERT_OK_AND_ASSIGN(const FinishedRun run, RunTraining({bare_, From("")}, Quiet()));

  EXPECT_EQ(DifferenceOf(run.trainer->state().Weights(), source_.trainer->state().Weights()), "");
  EXPECT_EQ(run.trainer->state().step, 0);
  EXPECT_EQ(run.trainer->state().optimizer().step(), 0);
}

TEST_F(PretrainedTest, WithoutModelWeightsOnlyTheConfigComes) {
  ASSERT_OK_AND_ASSIGN(const FinishedRun run, RunTraining({bare_, From("model_weights: false")}, Quiet()));

  EXPECT_NE(DifferenceOf(run.trainer->state().Weights(), source_.trainer->state().Weights()), "");
}

TEST_F(PretrainedTest, OptimizerStateComesWithItsStep) {
  ASSERT_OK_AND_ASSIGN(const FinishedRun run, RunTraining({bare_, From("optimizer_state: true")}, Quiet()));

  EXPECT_EQ(DifferenceOf(run.trainer->state().Tensors(), source_.trainer->state().Tensors()), "");
  EXPECT_EQ(run.trainer->state().optimizer().step(), 2);
  EXPECT_EQ(run.trainer->state().step, 0);
}

TEST_F(PretrainedTest, Bfloat16KeepsTheSourcesPrecisionInTheMasters) {
  ASSERT_OK_AND_ASSIGN(const FinishedRun run, RunTraining({bare_, From(""), "dtype: \"bfloat16\""}, Quiet()));

  std::map<std::string, at::Tensor> tensors;
  for (const LiveTensor& tensor : run.trainer->state().Tensors()) {
    tensors[tensor.name] = tensor.tensor;
  }
  for (const LiveTensor& weight : source_.trainer->state().Weights()) {
    EXPECT_TRUE(tensors[weight.name + "/master"].equal(weight.tensor)) << weight.name;
    EXPECT_TRUE(tensors[weight.name].equal(weight.tensor.to(at::kBFloat16))) << weight.name;
  }
}

TEST_F(PretrainedTest, ARunOfItsOwnNoLongerNeedsThePretrainedOne) {
  ASSERT_OK(RunTraining({bare_, From(""), "steps: 2"}, Quiet(/*stop_after=*/1)));
  ASSERT_OK(RemoveTree(PosixFileSystem(), directory_ + "/source"));

  ASSERT_OK_AND_ASSIGN(const FinishedRun resumed, RunTraining({bare_, From(""), "steps: 2"}, Quiet()));

  EXPECT_EQ(resumed.report.start, StartKind::kResume);
  EXPECT_EQ(resumed.report.first_step, 1);
}

TEST_F(PretrainedTest, ARunsOutputStandsForItsNewestCheckpoint) {
  for (const char* const folder : {"/source", "/source/checkpoint"}) {
    ASSERT_OK_AND_ASSIGN(const Start start,
                         StartOf({bare_, absl::StrCat("pretrained { path: \"", directory_, folder, "\" }")}));
    EXPECT_EQ(start.path, path_);
    EXPECT_THAT(start.notes, ElementsAre(HasSubstr(path_)));
  }
}

TEST_F(PretrainedTest, WrappersAreTakenOffTheNamesOfTensors) {
  const std::string llama = Llama(directory_);
  const std::string weights = JoinPath(llama, "model.safetensors");
  const std::string before = Contents(weights);
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, before.data(), sizeof(header_bytes));
  const std::string data = before.substr(sizeof(header_bytes) + header_bytes);
  const std::string header = absl::StrReplaceAll(
      before.substr(8, header_bytes), {{"\"model.", "\"module.model."}, {"\"lm_head.", "\"module.lm_head."}});
  header_bytes = header.size();
  std::ofstream(weights, std::ios::binary)
      << std::string(reinterpret_cast<const char*>(&header_bytes), sizeof(header_bytes)) << header << data;
  const std::string from = absl::StrCat("pretrained { path: \"", llama, "\" ");

  EXPECT_THAT(StartOf({bare_, from + "}"}), IsKind(ErrorKind::kMissing, HasSubstr("pretrained.strip_prefix")));
  EXPECT_OK(StartOf({bare_, from + "strip_prefix: \"module.\" }"}).status());
  EXPECT_THAT(StartOf({bare_, From("strip_prefix: \"module.\"")}), IsKind(ErrorKind::kRequest, HasSubstr("native")));
}

// Found in the first save, it would cost the steps before.
TEST_F(PretrainedTest, ADamagedTokenizerIsFoundAtTheStart) {
  const std::string first =
      absl::StrCat("steps: 1 output: \"", directory_, "/first\" threads: 1 data { path: \"", data_,
                   "\" kind: BYTES sequence_length: 12 } pretrained { path: \"", Llama(directory_), "\" }");
  ASSERT_OK_AND_ASSIGN(const FinishedRun run, RunTraining({first}, Quiet()));
  const std::string saved = run.report.checkpoints.back();
  const std::string asset = JoinPath(saved, "assets/generation_config.json");
  std::string contents = Contents(asset);
  ASSERT_FALSE(contents.empty());
  contents.back() ^= 1;
  std::ofstream(asset, std::ios::binary) << contents;

  EXPECT_THAT(StartOf({bare_, absl::StrCat("pretrained { path: \"", saved, "\" }")}),
              IsKind(ErrorKind::kChecksum, HasSubstr("generation_config.json")));
}

TEST_F(PretrainedTest, MissingDirectoryIsNamed) {
  const absl::StatusOr<Start> start = StartOf({bare_, "pretrained { path: \"nowhere\" }"});

  EXPECT_FALSE(start.ok());
  EXPECT_THAT(std::string(start.status().message()), HasSubstr("nowhere"));
}

// Where the tokenizer's files are is known only when a save is done.
class ExportTest : public ::testing::TestWithParam<const char*> {};

INSTANTIATE_TEST_SUITE_P(Async, ExportTest, ::testing::Values("NONE", "LAZY"));

TEST_P(ExportTest, ExportsAreCompleteDirectories) {
  const std::string directory = FreshDirectory(absl::StrCat("hugging_face_", GetParam()));
  const std::string llama = Llama(directory);
  const std::string config =
      absl::StrCat("steps: 4 output: \"", directory, "/run\" threads: 1 data { path: \"", TextFile(directory),
                   "\" kind: BYTES sequence_length: 12 batch_size: 1 } pretrained { path: \"", llama, "\" }",
                   "checkpoint { interval: 1 keep: 1 async: ", GetParam(), " } export { format: \"llama\" }");

  // Stopped once, so that the files come from a checkpoint that retention deletes before the export.
  ASSERT_OK(RunTraining({config}, Quiet(/*stop_after=*/1)));
  ASSERT_OK_AND_ASSIGN(const FinishedRun run, RunTraining({config}, Quiet()));

  ASSERT_EQ(run.report.exports.size(), 1);
  const auto before = nlohmann::json::parse(Contents(llama + "/config.json"));
  const auto after = nlohmann::json::parse(Contents(run.report.exports[0] + "/config.json"));
  EXPECT_EQ(after, before);
  ASSERT_OK_AND_ASSIGN(const auto entries, PosixFileSystem().List(llama));
  for (const DirectoryEntry& entry : entries) {
    if (!absl::StrContains(entry.name, ".safetensors") && entry.name != "config.json") {
      EXPECT_EQ(Contents(JoinPath(run.report.exports[0], entry.name)), Contents(JoinPath(llama, entry.name)))
          << entry.name;
    }
  }
}

// The newest export alone was to stay; with a key that nothing declares all of them did.  Its config said bfloat16 of
// float32 weights.
TEST(ExportedConfigTest, SaysTheTypeOfItsWeightsAndLetsOldExportsGo) {
  const std::string directory = FreshDirectory("exported_config");
  const std::string llama = JoinPath(directory, "llama");
  CopyDirectory("tests/testdata/fixtures/llama3_bf16_sharded/hf", PosixFileSystem(), llama);
  auto wanted = nlohmann::json::parse(Contents(llama + "/config.json"));
  wanted["glorp"] = 1;
  std::ofstream(llama + "/config.json") << wanted;
  TrainerOptions options;
  std::vector<std::string> lines;
  options.print = [&lines](const std::string& line) { lines.push_back(line); };

  ASSERT_OK_AND_ASSIGN(
      const FinishedRun run,
      RunTraining(
          {absl::StrCat("steps: 3 output: \"", directory, "/run\" threads: 1 data { path: \"", TextFile(directory),
                        "\" kind: BYTES sequence_length: 12 batch_size: 1 } pretrained { ", "path: \"", llama,
                        "\" carry_unknown: true } ", "export { format: \"llama\" interval: 1 keep: 1 }")},
          options));

  EXPECT_THAT(DirectoriesIn(directory + "/run/export/llama"), ElementsAre("step-00000003"));
  EXPECT_THAT(lines, Each(Not(HasSubstr("cannot be opened"))));
  wanted["torch_dtype"] = "float32";
  EXPECT_EQ(nlohmann::json::parse(Contents(run.report.exports.back() + "/config.json")), wanted);
}

TEST(ReferenceTest, ARunStartsFromMetasFilesAndExportsSuch) {
  const std::string directory = FreshDirectory("reference");
  const std::string meta = JoinPath(directory, "meta");
  CopyDirectory("tests/testdata/fixtures/meta_llama31_bf16_mp2/meta", PosixFileSystem(), meta);
  const std::string config = absl::StrCat(
      "output: \"", directory, "/run\" threads: 1 dtype: \"bfloat16\" data { path: \"", TextFile(directory),
      "\" kind: BYTES sequence_length: 12 batch_size: 1 } pretrained { path: \"", meta, "\" }",
      "export { format: \"reference\" format_options { key: \"model-parallel\" value: \"4\" } }");

  ASSERT_OK_AND_ASSIGN(const FinishedRun run, RunTraining({config, "steps: 1"}, Quiet()));

  ASSERT_EQ(run.report.exports.size(), 1);
  const std::string exported = run.report.exports[0];
  ASSERT_OK(PosixFileSystem().Stat(JoinPath(exported, "consolidated.03.pth")));
  EXPECT_THAT(Contents(exported + "/params.json"), HasSubstr("\"n_kv_heads\": 4"));
  // Which starts another run, with the same weights.
  ASSERT_OK_AND_ASSIGN(
      const FinishedRun again,
      RunTraining({config, "steps: 0",
                   absl::StrCat("output: \"", directory, "/again\" pretrained { path: \"", exported, "\" }")},
                  Quiet()));
  EXPECT_EQ(DifferenceOf(again.trainer->state().Weights(), run.trainer->state().Weights()), "");
  // Options of the format are checked before the first step.
  EXPECT_THAT(RunTraining({config, absl::StrCat("steps: 1 output: \"", directory, "/other\""),
                           "export { format_options { key: \"model-parallel\" value: \"3\" } }"},
                          Quiet()),
              IsKind(ErrorKind::kRequest, HasSubstr("possible for this model")));
  EXPECT_THAT(StartOf({config, absl::StrCat("steps: 1 output: \"", directory, "/other\""),
                       "pretrained { format_options { key: \"modl\" value: \"7b\" } }"}),
              IsKind(ErrorKind::kRequest, HasSubstr("\"modl\"")));
}

TEST(HuggingFaceTest, HasNoTrainerConfigAndNoOptimizerState) {
  const std::string directory = FreshDirectory("hugging_face_options");
  const std::string llama = Llama(directory);
  const std::string bare =
      absl::StrCat("steps: 1 output: \"", directory, "/run\" data { path: \"", TextFile(directory), "\" kind: BYTES }");
  const std::string from = absl::StrCat("path: \"", llama, "\"");

  EXPECT_THAT(StartOf({bare, absl::StrCat("pretrained { load_config: FULL ", from, "}")}),
              IsKind(ErrorKind::kRequest, HasSubstr("no trainer config")));
  EXPECT_THAT(StartOf({bare, absl::StrCat("pretrained { optimizer_state: true ", from, "}")}),
              IsKind(ErrorKind::kRequest, HasSubstr("no optimizer state")));
}

}  // namespace
}  // namespace waypoint::engine
