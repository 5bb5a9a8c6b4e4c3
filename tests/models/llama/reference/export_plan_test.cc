// params.json and the tables behind it, without any tensor data.

#include "models/llama/reference/export_plan.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "models/decoder/parameters.h"
#include "tests/models/llama/reference/fairseq2_params.h"
#include "tests/testing/random_geometry.h"
#include "tests/testing/status_matchers.h"

namespace waypoint::models {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

LlamaFacts FactsOfArchitecture(const LlamaArchitecture& architecture) {
  LlamaFacts facts;
  facts.shape = architecture.shape;
  facts.theta = architecture.rope_theta;
  facts.scale_factor = architecture.scale_factor;
  facts.epsilon = architecture.norm_eps;
  facts.tied = architecture.tied;
  return facts;
}

const LlamaArchitecture& Architecture(absl::string_view name) { return **FindLlamaArchitecture(name); }

CheckpointMetadata MetadataOf(const LlamaFacts& facts) {
  CheckpointMetadata metadata;
  metadata.mutable_model_config()->PackFrom(ConfigOf(facts));
  return metadata;
}

LlamaFacts Small() {
  LlamaFacts facts;
  facts.shape = {64, 3, 4, 2, 224, 320};
  return facts;
}

absl::StatusOr<ReferenceExport> Plan(const LlamaFacts& facts, const FormatOptionValues& values = {}) {
  auto options = ParseReferenceOptions(values);
  if (!options.ok()) {
    return options.status();
  }
  return PlanReferenceExport(MetadataOf(facts), *options);
}

class Fairseq2Test : public testing::TestWithParam<Fairseq2Literal> {};

// From the model as its own files say it.
TEST_P(Fairseq2Test, ParamsAreTheSameBytes) {
  const LlamaArchitecture& architecture = Architecture(GetParam().name);
  FormatOptionValues values = {{"model", GetParam().name}};
  CheckpointMetadata metadata = MetadataOf(FactsOfArchitecture(architecture));
  ASSERT_OK_AND_ASSIGN(const ReferenceExport own, PlanReferenceExport(metadata, *ParseReferenceOptions(values)));
  (*metadata.mutable_external_configs())["params.json"] = own.params_text;
  (*metadata.mutable_external_configs())[kLayoutKey] = LayoutText(own.layout);
  values["consumer"] = "fairseq2";
  const bool wrong_layers = architecture.shape.dim == 5120;
  if (wrong_layers) {
    ASSERT_OK_AND_ASSIGN(const ReferenceExport right, PlanReferenceExport(metadata, *ParseReferenceOptions(values)));
    EXPECT_THAT(right.params_text, HasSubstr("\"n_layers\": 40"));
    values["fairseq2-errors"] = "true";
  }

  ASSERT_OK_AND_ASSIGN(const ReferenceExport plan, PlanReferenceExport(metadata, *ParseReferenceOptions(values)));

  EXPECT_EQ(plan.params_text, GetParam().text);
  if (architecture.norm_eps == 1e-6) {
    EXPECT_THAT(own.params_text, HasSubstr("\"norm_eps\": 1e-06"));
    EXPECT_THAT(plan.notes, Contains(AllOf(HasSubstr("norm_eps 1e-05"), HasSubstr("--norm-eps 1e-06"))));
    EXPECT_EQ(plan.read_back.at("norm-eps"), "1e-06");
  } else {
    EXPECT_EQ(plan.read_back.count("norm-eps"), 0u);
  }
}

INSTANTIATE_TEST_SUITE_P(Architectures, Fairseq2Test, testing::ValuesIn(kFairseq2Params),
                         [](const testing::TestParamInfo<Fairseq2Literal>& info) {
                           return std::string(info.param.name);
                         });

TEST(ArchitecturesTest, AreAllOfFairseq2s) {
  int64_t count = 0;
  for (const LlamaArchitecture& architecture : LlamaArchitectures()) {
    count += architecture.in_fairseq2;
  }
  EXPECT_EQ(count, static_cast<int64_t>(std::size(kFairseq2Params)));
}

TEST(ArchitecturesTest, HaveThePublishedNumbersOfParameters) {
  const std::pair<const char*, int64_t> kParameters[] = {
      {"7b", 6738415616},          {"13b", 13015864320},
      {"33b", 32528943616},        {"65b", 65285660672},
      {"llama2_70b", 68976648192}, {"llama3_8b", 8030261248},
      {"llama3_70b", 70553706496}, {"llama3_2_1b", 1235814400},
      {"llama3_2_3b", 3212749824}, {"llama3_1_405b", 405853388800},
  };
  for (const auto& [name, wanted] : kParameters) {
    ASSERT_OK_AND_ASSIGN(const Manifest parameters,
                         ParameterManifest(ConfigOf(FactsOfArchitecture(Architecture(name))), DType::kU8));
    EXPECT_EQ(parameters.total_bytes(), wanted) << name;
  }
}

TEST(ArchitecturesTest, TheirHiddenLayersFollowFromTheirParams) {
  for (const LlamaArchitecture& architecture : LlamaArchitectures()) {
    EXPECT_EQ(FfnSize(architecture.shape.dim, architecture.ffn_dim_multiplier, architecture.multiple_of),
              architecture.shape.ffn)
        << architecture.name;
  }
}

TEST(ArchitecturesTest, NamesOfCardsAreKnown) {
  EXPECT_EQ(&Architecture("llama3_3_70b_instruct"), &Architecture("llama3_3_70b"));
  EXPECT_EQ(&Architecture("llama_7b"), &Architecture("7b"));
  EXPECT_EQ(&Architecture("llama2_7b_chat"), &Architecture("llama2_7b"));
  EXPECT_THAT(FindLlamaArchitecture("llama9"), IsKind(ErrorKind::kRequest, HasSubstr("llama3_1_405b")));
}

TEST(FfnParamsTest, AreFoundForAnyHiddenLayerOfSomeParams) {
  RandomGeometry random(3);
  for (int round = 0; round < 200; ++round) {
    LlamaShape shape = Small().shape;
    shape.dim = 16 * random.Pick(1, 600);
    shape.ffn = random.Pick(1, 5 * static_cast<int>(shape.dim));
    const auto params = FindFfnParams(shape);
    ASSERT_OK(params);
    EXPECT_EQ(FfnSize(shape.dim, params->multiplier, params->multiple_of), shape.ffn) << shape.dim;
  }
}

// A vocabulary with more entries made these look like models that nobody knows: hidden layers that the default
// multiplier makes with another multiple_of, and a scaling that was refused.
TEST(FfnParamsTest, AreThoseOfTheReleasedModelWhateverTheVocabulary) {
  for (const LlamaArchitecture& architecture : LlamaArchitectures()) {
    LlamaShape shape = architecture.shape;
    shape.vocab += 8;
    ASSERT_OK_AND_ASSIGN(const FfnParams params, FindFfnParams(shape));
    EXPECT_EQ(params.multiplier, architecture.ffn_dim_multiplier) << architecture.name;
    EXPECT_EQ(params.multiple_of, architecture.multiple_of) << architecture.name;
  }
}

TEST(ExportPlanTest, AModelWithMoreTokensIsWrittenAsTheReleasedOne) {
  LlamaFacts facts = FactsOfArchitecture(Architecture("llama3_2_1b"));
  facts.shape.vocab = 128264;
  for (const FormatOptionValues& values : {FormatOptionValues(), FormatOptionValues{{"model", "llama3_2_1b"}}}) {
    ASSERT_OK_AND_ASSIGN(const ReferenceExport plan, Plan(facts, values));
    EXPECT_THAT(plan.params_text, AllOf(HasSubstr("\"ffn_dim_multiplier\": 1.5, \"multiple_of\": 256"),
                                        HasSubstr("\"vocab_size\": 128264")));
  }
  facts = FactsOfArchitecture(Architecture("llama2_13b"));
  facts.shape.vocab = 32001;
  EXPECT_EQ(Plan(facts)->layout.files, 1) << "2 files do not divide the vocabulary";
}

TEST(ArchitecturesTest, AreLikeThoseWithTheNextSmallerVocabulary) {
  LlamaShape shape = Architecture("llama3_70b").shape;
  shape.vocab += 8;
  std::vector<std::string> names;
  for (const LlamaArchitecture* architecture : ArchitecturesLike(shape)) {
    names.emplace_back(architecture->name);
  }
  EXPECT_THAT(names, testing::ElementsAre("llama3_70b", "llama3_1_70b", "llama3_3_70b"));
  shape.vocab = 32016;
  EXPECT_EQ(ArchitecturesLike(shape).size(), 1u);
  shape.vocab = 31999;
  EXPECT_THAT(ArchitecturesLike(shape), IsEmpty());
}

TEST(ExportPlanTest, EachConsumerGetsItsKeys) {
  LlamaFacts facts = FactsOfArchitecture(Architecture("7b"));
  EXPECT_EQ(Plan(facts, {{"consumer", "llama1"}})->params_text,
            R"({"dim": 4096, "multiple_of": 256, "n_heads": 32, "n_layers": 32, "norm_eps": 1e-06, "vocab_size": -1})");
  facts = FactsOfArchitecture(Architecture("llama2_70b"));
  EXPECT_EQ(Plan(facts, {{"consumer", "llama2"}})->params_text,
            R"({"dim": 8192, "multiple_of": 4096, "ffn_dim_multiplier": 1.3, "n_heads": 64, "n_kv_heads": 8, )"
            R"("n_layers": 80, "norm_eps": 1e-05, "vocab_size": -1})");
  facts = FactsOfArchitecture(Architecture("llama3_2_3b"));
  EXPECT_EQ(Plan(facts, {{"consumer", "llama3"}})->params_text,
            R"({"dim": 3072, "n_layers": 28, "n_heads": 24, "n_kv_heads": 8, "vocab_size": 128256, )"
            R"("ffn_dim_multiplier": 1.0, "multiple_of": 256, "norm_eps": 1e-05, "rope_theta": 500000.0, )"
            R"("use_scaled_rope": true})");
  EXPECT_EQ(Plan(Small(), {{"consumer", "llama2"}, {"params-layout", "nested"}})->params_text,
            R"({"model": {"dim": 64, "multiple_of": 32, "ffn_dim_multiplier": 1.3, "n_heads": 4, "n_kv_heads": 2, )"
            R"("n_layers": 3, "norm_eps": 1e-05, "vocab_size": -1}})");
}

TEST(ExportPlanTest, WithoutAConsumerItIsTheOldestThatCan) {
  EXPECT_THAT(Plan(Small())->params_text, Not(HasSubstr("rope_theta")));
  LlamaFacts facts = Small();
  facts.theta = 1e6;
  EXPECT_THAT(Plan(facts)->params_text, HasSubstr("\"rope_theta\": 1000000.0"));
}

TEST(ExportPlanTest, FilesAreAsManyAsTheModelShipsAs) {
  EXPECT_EQ(Plan(FactsOfArchitecture(Architecture("llama2_13b")))->layout.files, 2);
  EXPECT_EQ(Plan(FactsOfArchitecture(Architecture("llama2_13b")))->layout.embedding_dim, 1);
  EXPECT_EQ(Plan(FactsOfArchitecture(Architecture("llama3_70b")))->layout.files, 8);
  EXPECT_EQ(Plan(FactsOfArchitecture(Architecture("llama3_70b")))->layout.embedding_dim, 0);
  EXPECT_EQ(Plan(Small())->layout.files, 1);
}

TEST(ExportPlanTest, ABigModelInManyFilesRepeatsItsKeyValueHeads) {
  ASSERT_OK_AND_ASSIGN(const ReferenceExport plan,
                       Plan(FactsOfArchitecture(Architecture("llama3_1_405b")), {{"model-parallel", "16"}}));

  EXPECT_THAT(plan.params_text, HasSubstr("\"n_kv_heads\": 16"));
  EXPECT_THAT(plan.notes, Contains(HasSubstr("each of the 8 heads of keys and values is stored 2 times")));
}

TEST(ExportPlanTest, FilesThatDoNotDivideAreRefusedWithThoseThatDo) {
  EXPECT_THAT(
      Plan(Small(), {{"model-parallel", "3"}}),
      IsKind(ErrorKind::kRequest,
             AllOf(HasSubstr("n_heads 4"), HasSubstr("hidden layer 224"), HasSubstr("vocabulary 320"),
                   HasSubstr("dim 64"), HasSubstr("n_kv_heads 2"), HasSubstr("possible for this model: 1, 2, 4"))));
  EXPECT_THAT(Plan(Small(), {{"model-parallel", "1000"}}), IsKind(ErrorKind::kRequest, HasSubstr("between 1 and 100")));
  EXPECT_THAT(Plan(Small(), {{"model-parallel", "two"}}), IsKind(ErrorKind::kRequest, HasSubstr("\"two\"")));
}

TEST(ExportPlanTest, WhatAConsumerCannotBeToldIsRefusedByName) {
  LlamaFacts facts = Small();
  facts.theta = 500000;
  facts.scale_factor = 8;
  EXPECT_THAT(Plan(facts, {{"consumer", "llama1"}}),
              IsKind(ErrorKind::kUnsupported, AllOf(HasSubstr("n_kv_heads 2"), HasSubstr("ffn_dim_multiplier 1.3"),
                                                    HasSubstr("rope_theta 500000"), HasSubstr("scaled"))));
  EXPECT_THAT(Plan(facts, {{"consumer", "llama2"}}),
              IsKind(ErrorKind::kUnsupported, AllOf(HasSubstr("rope_theta 500000"), HasSubstr("llama3 can"))));
  EXPECT_THAT(Plan(facts, {{"consumer", "fairseq2"}}), IsKind(ErrorKind::kUnsupported, HasSubstr("--model")));
  EXPECT_OK(Plan(facts, {{"consumer", "llama3"}}));

  facts.scale_factor = 32;
  EXPECT_THAT(Plan(facts), IsKind(ErrorKind::kUnsupported,
                                  AllOf(HasSubstr("Meta's code scales by 8"), HasSubstr("--rope-factor 32"))));
  ASSERT_OK_AND_ASSIGN(const ReferenceExport plan, Plan(facts, {{"rope-factor", "32"}}));
  EXPECT_THAT(plan.notes, Contains(HasSubstr("this model by 32")));
  EXPECT_THAT(Plan(facts, {{"emit-rope-freqs", "true"}, {"rope-factor", "32"}}),
              IsKind(ErrorKind::kRequest, HasSubstr("emit-rope-freqs")));
}

TEST(ExportPlanTest, WhatWouldBeReadAsAnotherModelIsRefused) {
  // Llama 2 code computes with 1e4 whatever the vocabulary; a reader that knows Llama 3 by it would not.
  LlamaFacts facts = Small();
  facts.shape.vocab = 128256;
  EXPECT_THAT(Plan(facts, {{"consumer", "llama2"}}),
              IsKind(ErrorKind::kUnsupported, HasSubstr("theta: 10000 -> 500000")));
  EXPECT_OK(Plan(facts, {{"consumer", "llama3"}}));
}

TEST(ExportPlanTest, FieldsThatTheFormatDoesNotHaveAreNamed) {
  DecoderConfig config = ConfigOf(Small());
  Block* block = config.mutable_decoder()->mutable_fixed();
  block->mutable_mixer()->mutable_attention()->set_head_size(32);
  block->mutable_mixer()->mutable_attention()->set_add_linear_biases(true);
  block->mutable_mixer()->mutable_attention()->mutable_rotary()->mutable_linear()->set_scale_factor(2);
  config.mutable_head()->mutable_normalization()->set_epsilon(1e-6);
  CheckpointMetadata metadata;
  metadata.mutable_model_config()->PackFrom(config);

  EXPECT_THAT(PlanReferenceExport(metadata, {}),
              IsKind(ErrorKind::kUnsupported, AllOf(HasSubstr("head_size: 32 -> 16"), HasSubstr("add_linear_biases"),
                                                    HasSubstr("linear"), HasSubstr("head.normalization.epsilon"))));
}

TEST(ExportPlanTest, AModelNameThatTheConfigContradicts) {
  EXPECT_THAT(Plan(Small(), {{"model", "llama3_8b"}}),
              IsKind(ErrorKind::kConfig, HasSubstr("n_heads is 4 in params.json, 32 of model llama3_8b")));
}

class OriginalTest : public testing::Test {
 protected:
  absl::StatusOr<ReferenceExport> PlanFrom(const std::string& params, const LlamaFacts& facts,
                                           const FormatOptionValues& values = {}) {
    CheckpointMetadata metadata = MetadataOf(facts);
    (*metadata.mutable_external_configs())["params.json"] = params;
    (*metadata.mutable_external_configs())[kLayoutKey] = LayoutText({2, 1});
    return PlanReferenceExport(metadata, *ParseReferenceOptions(values));
  }

  const std::string params_ =
      R"({"n_heads":4, "dim": 64, "n_kv_heads": 2, "max_seq_len": 2048, "mine": [1], "norm_eps": 1e-5, "multiple_of": 56, "n_layers": 3})";
};

TEST_F(OriginalTest, ComesBackToTheByte) {
  ASSERT_OK_AND_ASSIGN(const ReferenceExport plan, PlanFrom(params_, Small()));

  EXPECT_EQ(plan.params_text, params_);
  EXPECT_EQ(plan.layout.files, 2);
  EXPECT_EQ(plan.layout.embedding_dim, 1);
  EXPECT_THAT(plan.notes, IsEmpty());
}

TEST_F(OriginalTest, MoreFilesOnlyChangeTheRepeatedHeads) {
  ASSERT_OK_AND_ASSIGN(const ReferenceExport plan, PlanFrom(params_, Small(), {{"model-parallel", "4"}}));

  EXPECT_EQ(plan.params_text,
            R"({"n_heads": 4, "dim": 64, "n_kv_heads": 4, "max_seq_len": 2048, "mine": [1], "norm_eps": 1e-05, )"
            R"("multiple_of": 56, "n_layers": 3})");
}

// Meta's code computes the hidden layer from the file: what the tensors contradict is not handed on.
TEST_F(OriginalTest, AFileThatContradictsTheTensorsIsWrittenAnew) {
  const std::string right = R"("multiple_of": 56)";
  for (const std::string wrong : {R"("multiple_of": 256)", R"("multiple_of": 56, "ffn_dim_multiplier": 1.5)"}) {
    std::string params = params_;
    params.replace(params.find(right), right.size(), wrong);
    ASSERT_OK_AND_ASSIGN(const ReferenceExport plan, PlanFrom(params, Small()));
    EXPECT_NE(plan.params_text, params);
    EXPECT_THAT(plan.params_text, Not(HasSubstr(wrong)));
  }
}

// The user said something that the file does not: the copy must.
TEST_F(OriginalTest, WhatTheUserSaidIsInTheFileAfterwards) {
  LlamaFacts facts = Small();
  facts.scale_factor = 8;
  ASSERT_OK_AND_ASSIGN(const ReferenceExport plan, PlanFrom(params_, facts, {{"rope-factor", "8"}}));
  EXPECT_THAT(plan.params_text, HasSubstr("\"use_scaled_rope\": true"));

  // As fairseq2 leaves a model behind.
  const std::string nested =
      R"({"model": {"dim": 2048, "n_layers": 16, "n_heads": 32, "n_kv_heads": 8, "multiple_of": 256, )"
      R"("ffn_dim_multiplier": 1.5, "rope_theta": 500000.0, "norm_eps": 1e-05}})";
  ASSERT_OK_AND_ASSIGN(const ReferenceExport real, PlanFrom(nested, FactsOfArchitecture(Architecture("llama3_2_1b")),
                                                            {{"model", "llama3_2_1b"}, {"model-parallel", "1"}}));
  EXPECT_THAT(real.params_text, HasSubstr("\"use_scaled_rope\": true"));
}

// Meta's code cuts n_kv_heads over the files, so it counts the copies.
TEST_F(OriginalTest, RepeatedHeadsAreCountedWhereverTheyCameFrom) {
  CheckpointMetadata metadata = MetadataOf(Small());
  (*metadata.mutable_external_configs())["params.json"] = params_;
  (*metadata.mutable_external_configs())[kLayoutKey] = LayoutText({4, 1});
  ASSERT_OK_AND_ASSIGN(const ReferenceExport plan, PlanReferenceExport(metadata, *ParseReferenceOptions({})));
  EXPECT_EQ(plan.layout.files, 4);
  EXPECT_THAT(plan.params_text, HasSubstr("\"n_kv_heads\": 4"));
}

TEST_F(OriginalTest, AChangedModelIsWrittenAnew) {
  LlamaFacts facts = Small();
  facts.theta = 20000;

  ASSERT_OK_AND_ASSIGN(const ReferenceExport plan, PlanFrom(params_, facts));

  EXPECT_THAT(plan.params_text, HasSubstr("\"rope_theta\": 20000.0"));
}

// What is not in the written params.json is named by whoever writes (checkpoint/format/carried_keys.h).
TEST_F(OriginalTest, KeysThatNothingHoldsAreTold) {
  CheckpointMetadata metadata = MetadataOf(Small());
  (*metadata.mutable_external_configs())["params.json"] =
      R"({"model": {"dim": 64, "max_seq_len": 5, "odd": null}, "x": 1})";

  ASSERT_OK_AND_ASSIGN(const auto keys, FindCarriedParams(metadata));

  ASSERT_EQ(keys.at("params.json").size(), 2);
  EXPECT_EQ(keys.at("params.json")[0].path, std::vector<std::string>({"model", "max_seq_len"}));
  EXPECT_FALSE(keys.at("params.json")[0].unknown());
  EXPECT_EQ(keys.at("params.json")[1].path, std::vector<std::string>({"x"}));
  EXPECT_TRUE(keys.at("params.json")[1].unknown());
}

}  // namespace
}  // namespace waypoint::models
