#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/llama/llama_config.h"
#include "tests/testing/status_matchers.h"

namespace waypoint::models {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

DecoderConfig Native() {
  return ImportLlamaConfig(Json::parse(R"({"model_type": "llama", "hidden_size": 8, "intermediate_size": 16,
                               "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 16})"),
                           false)
      ->config;
}

Attention* MutableAttention(DecoderConfig* config) {
  return config->mutable_decoder()->mutable_fixed()->mutable_mixer()->mutable_attention();
}

std::string Export(const DecoderConfig& config, const char* original, const ExportConfigOptions& options = {}) {
  const Json json = Json::parse(original);
  const absl::StatusOr<Json> result = ExportLlamaConfig(config, &json, options);
  return result.ok() ? result->dump() : std::string(result.status().message());
}

DecoderConfig ImportText(const char* text) { return ImportLlamaConfig(Json::parse(text), false)->config; }

constexpr char kOriginal[] =
    R"({"model_type":"llama","hidden_size":8,"intermediate_size":16,"num_hidden_layers":2,"num_attention_heads":2,)"
    R"("vocab_size":16,"hidden_act":"gelu_new","rope_scaling":null,"torch_dtype":"float32"})";

TEST(LlamaExportTest, WithoutAnOriginalTheConfigIsCompleteAndSorted) {
  ExportConfigOptions options;
  options.weights_dtype = DType::kBF16;

  ASSERT_OK_AND_ASSIGN(const Json json, ExportLlamaConfig(Native(), nullptr, options));

  EXPECT_EQ(json.dump(),
            R"({"architectures":["LlamaForCausalLM"],"attention_bias":false,"attention_dropout":0.0,"head_dim":4,)"
            R"("hidden_act":"silu","hidden_size":8,"intermediate_size":16,"max_position_embeddings":2048,)"
            R"("mlp_bias":false,"model_type":"llama","num_attention_heads":2,"num_hidden_layers":2,)"
            R"("num_key_value_heads":2,"rms_norm_eps":1e-06,"rope_scaling":null,"rope_theta":10000.0,)"
            R"("tie_word_embeddings":false,"torch_dtype":"bfloat16","vocab_size":16})");
}

TEST(LlamaExportTest, TheNewLayoutIsWrittenOnRequest) {
  ExportConfigOptions options;
  options.layout = ExternalLayout::kTransformers5;
  options.weights_dtype = DType::kF16;

  ASSERT_OK_AND_ASSIGN(const Json json, ExportLlamaConfig(Native(), nullptr, options));

  EXPECT_EQ(json["rope_parameters"], Json::parse(R"({"rope_theta": 10000.0, "rope_type": "default"})"));
  EXPECT_EQ(json["dtype"], "float16");
  EXPECT_FALSE(json.contains("rope_theta") || json.contains("rope_scaling") || json.contains("torch_dtype"));
}

TEST(LlamaExportTest, MaxPositionsFollowTheRotaryEmbedding) {
  DecoderConfig config = Native();
  auto* rotary = MutableAttention(&config)->mutable_rotary();
  rotary->mutable_llama3()->set_scale_factor(8);
  rotary->mutable_llama3()->set_low_frequency_factor(1);
  rotary->mutable_llama3()->set_high_frequency_factor(4);
  rotary->mutable_llama3()->set_original_context_length(512);
  EXPECT_EQ((*ExportLlamaConfig(config, nullptr, {}))["max_position_embeddings"], 4096);

  ExportConfigOptions options;
  options.max_position_embeddings = 77;
  EXPECT_EQ((*ExportLlamaConfig(config, nullptr, options))["max_position_embeddings"], 77);

  rotary->mutable_dynamic()->set_scale_factor(2);
  rotary->mutable_dynamic()->set_original_context_length(300);
  EXPECT_EQ((*ExportLlamaConfig(config, nullptr, {}))["max_position_embeddings"], 300);
}

TEST(LlamaExportTest, ChangesAgainstTheOriginalAreWritten) {
  DecoderConfig config = ImportText(kOriginal);
  config.set_vocab_size(32);
  config.set_tied_embedding_weight(true);

  EXPECT_EQ(Export(config, kOriginal),
            R"({"model_type":"llama","hidden_size":8,"intermediate_size":16,"num_hidden_layers":2,)"
            R"("num_attention_heads":2,"vocab_size":32,"hidden_act":"gelu_new","rope_scaling":null,)"
            R"("torch_dtype":"float32","tie_word_embeddings":true})");
}

TEST(LlamaExportTest, AChangedActivationGetsItsUsualName) {
  DecoderConfig config = ImportText(kOriginal);
  config.mutable_decoder()->mutable_fixed()->mutable_mlp()->mutable_dense()->set_activation(GELU);

  EXPECT_THAT(Export(config, kOriginal), HasSubstr(R"("hidden_act":"gelu",)"));
}

TEST(LlamaExportTest, ChangedRotaryKeepsTheLayoutAndTheLegacyType) {
  constexpr char kLegacy[] =
      R"({"model_type":"llama","hidden_size":8,"intermediate_size":16,"num_hidden_layers":2,"num_attention_heads":2,)"
      R"("vocab_size":16,"rope_scaling":{"type":"linear","factor":2}})";
  DecoderConfig config = ImportText(kLegacy);
  EXPECT_EQ(Export(config, kLegacy), kLegacy);

  MutableAttention(&config)->mutable_rotary()->mutable_linear()->set_scale_factor(4);
  EXPECT_THAT(Export(config, kLegacy), HasSubstr(R"("rope_scaling":{"type":"linear","factor":4.0})"));

  MutableAttention(&config)->mutable_rotary()->mutable_standard();
  EXPECT_THAT(Export(config, kLegacy), HasSubstr(R"("rope_scaling":null)"));
}

TEST(LlamaExportTest, RotaryThatTheOriginalDidNotHaveIsAdded) {
  DecoderConfig config = ImportText(kOriginal);
  auto* linear = MutableAttention(&config)->mutable_rotary()->mutable_linear();
  linear->set_scale_factor(4);

  EXPECT_THAT(Export(config, kOriginal), HasSubstr(R"("rope_scaling":{"rope_type":"linear","factor":4.0})"));
}

TEST(LlamaExportTest, DtypeIsRewrittenOnlyForCastWeights) {
  const DecoderConfig config = ImportText(kOriginal);
  EXPECT_THAT(Export(config, kOriginal), HasSubstr(R"("torch_dtype":"float32")"));

  ExportConfigOptions options;
  options.weights_dtype = DType::kBF16;

  EXPECT_THAT(Export(config, kOriginal, options), HasSubstr(R"("torch_dtype":"bfloat16")"));
}

TEST(LlamaExportTest, MaxPositionsOverrideKeepsTheRotaryEmbedding) {
  constexpr char kYarn[] =
      R"({"model_type":"llama","hidden_size":8,"intermediate_size":16,"num_hidden_layers":2,"num_attention_heads":2,)"
      R"("vocab_size":16,"max_position_embeddings":64,"rope_scaling":{"rope_type":"yarn","factor":2.0}})";
  const DecoderConfig config = ImportText(kYarn);
  ExportConfigOptions options;
  options.max_position_embeddings = 128;

  const Json json = Json::parse(kYarn);
  ASSERT_OK_AND_ASSIGN(const Json exported, ExportLlamaConfig(config, &json, options));
  ASSERT_OK_AND_ASSIGN(const ImportedConfig again, ImportLlamaConfig(exported, false));

  EXPECT_EQ(exported["max_position_embeddings"], 128);
  EXPECT_EQ(exported["rope_scaling"]["original_max_position_embeddings"], 64);
  EXPECT_EQ(again.config.DebugString(), config.DebugString());
}

TEST(LlamaExportTest, FactsAreSaidOfAModelThatCameFromNoConfig) {
  ExportConfigOptions options;
  options.facts.set_trained_positions(3000);
  options.facts.set_bos_token_id(1);
  options.facts.add_eos_token_id(2);
  options.facts.add_eos_token_id(7);
  options.facts.set_pad_token_id(0);
  ASSERT_OK_AND_ASSIGN(Json json, ExportLlamaConfig(Native(), nullptr, options));
  EXPECT_EQ(json["max_position_embeddings"], 3000);
  EXPECT_EQ(json["bos_token_id"], 1);
  EXPECT_EQ(json["eos_token_id"], Json::parse("[2, 7]"));
  EXPECT_EQ(json["pad_token_id"], 0);

  // Less than the default says nothing, less than what somebody wants either.
  options.facts.set_trained_positions(128);
  EXPECT_EQ((*ExportLlamaConfig(Native(), nullptr, options))["max_position_embeddings"], 2048);
  options.facts.set_max_position_embeddings(512);
  EXPECT_EQ((*ExportLlamaConfig(Native(), nullptr, options))["max_position_embeddings"], 512);
}

TEST(LlamaExportTest, AnOriginalIsRaisedToWhatWasTrainedUnlessTheModelComputesWithIt) {
  constexpr char kShort[] =
      R"({"model_type":"llama","hidden_size":8,"intermediate_size":16,"num_hidden_layers":2,"num_attention_heads":2,)"
      R"("vocab_size":16,"max_position_embeddings":64,"eos_token_id":5})";
  ExportConfigOptions options;
  options.facts.set_trained_positions(100);
  const Json exported = Json::parse(Export(ImportText(kShort), kShort, options));
  EXPECT_EQ(exported["max_position_embeddings"], 100);
  EXPECT_EQ(exported["eos_token_id"], 5);

  const std::string dynamic =
      absl::StrReplaceAll(kShort, {{"\"eos_token_id\":5", R"("rope_scaling":{"type":"dynamic","factor":2.0})"}});
  EXPECT_THAT(Export(ImportText(dynamic.c_str()), dynamic.c_str(), options),
              HasSubstr(R"("max_position_embeddings":64)"));
}

TEST(LlamaExportTest, WhatLlamaCannotSayIsRefusedAltogether) {
  DecoderConfig config = Native();
  MutableAttention(&config)->set_window_size(128);
  config.mutable_decoder()->mutable_fixed()->set_dropout(0.25);
  config.mutable_head()->set_prediction_heads(3);
  config.mutable_embeddings()->set_embedding_scale(2.0);

  EXPECT_THAT(ExportLlamaConfig(config, nullptr, {}),
              IsKind(ErrorKind::kConfig,
                     AllOf(HasSubstr("attention.window_size\" is 128"), HasSubstr("fixed.dropout\" is 0.25"),
                           HasSubstr("prediction_heads\" is 3"), HasSubstr("embedding_scale\" is 2.0"))));
}

TEST(LlamaExportTest, EpsilonsThatDifferHaveNoKey) {
  DecoderConfig config = Native();
  config.mutable_head()->mutable_normalization()->set_epsilon(1e-3);

  EXPECT_THAT(ExportLlamaConfig(config, nullptr, {}),
              IsKind(ErrorKind::kConfig, HasSubstr("\"rms_norm_eps\" would be 1e-06 by \"rms_norm_eps\" and 0.001")));
}

TEST(LlamaExportTest, BiasesOfSingleProjectionsHaveNoKey) {
  DecoderConfig config = Native();
  MutableAttention(&config)->set_query_bias(true);

  EXPECT_THAT(ExportLlamaConfig(config, nullptr, {}), IsKind(ErrorKind::kConfig, HasSubstr("query_bias\" is true")));
}

TEST(LlamaExportTest, EqualSpellingsAreAccepted) {
  DecoderConfig config = Native();
  Block block = config.decoder().fixed();
  *block.mutable_pre_mlp_normalization() = block.normalization();
  block.mutable_mixer()->mutable_attention()->set_query_bias(false);
  auto* pattern = config.mutable_decoder()->mutable_pattern();
  (*pattern->mutable_blocks())["a"] = block;
  (*pattern->mutable_blocks())["b"] = Native().decoder().fixed();
  pattern->add_pattern("a");
  pattern->add_pattern("b");

  ASSERT_OK_AND_ASSIGN(const Json json, ExportLlamaConfig(config, nullptr, {}));

  EXPECT_EQ(json.dump(), ExportLlamaConfig(Native(), nullptr, {})->dump());
}

TEST(LlamaExportTest, PatternsOfDifferentBlocksAreRefused) {
  DecoderConfig config = Native();
  const Block block = config.decoder().fixed();
  auto* pattern = config.mutable_decoder()->mutable_pattern();
  (*pattern->mutable_blocks())["a"] = block;
  (*pattern->mutable_blocks())["b"] = block;
  (*pattern->mutable_blocks())["b"].mutable_mixer()->mutable_attention()->set_window_size(4);
  pattern->add_pattern("a");
  pattern->add_pattern("b");

  EXPECT_THAT(ExportLlamaConfig(config, nullptr, {}), IsKind(ErrorKind::kConfig, HasSubstr("\"decoder.pattern\"")));
}

TEST(LlamaExportTest, InvalidConfigsAndOptionsAreRefused) {
  DecoderConfig config = Native();
  ExportConfigOptions options;
  options.max_position_embeddings = 0;
  EXPECT_THAT(ExportLlamaConfig(config, nullptr, options), IsKind(ErrorKind::kRequest));
  options = {};
  options.weights_dtype = DType::kInvalid;
  EXPECT_THAT(ExportLlamaConfig(config, nullptr, options), IsKind(ErrorKind::kRequest));

  config.set_hidden_size(0);
  EXPECT_THAT(ExportLlamaConfig(config, nullptr, {}), IsKind(ErrorKind::kConfig));

  DecoderConfig rotary = Native();
  MutableAttention(&rotary)->mutable_rotary()->mutable_none();
  EXPECT_THAT(ExportLlamaConfig(rotary, nullptr, {}), IsKind(ErrorKind::kUnsupported));
}

// Random valid configs, with a fixed seed.
class RandomConfigs {
 public:
  DecoderConfig Next() {
    DecoderConfig config = Native();
    Attention* attention = MutableAttention(&config);
    DenseMlp* mlp = config.mutable_decoder()->mutable_fixed()->mutable_mlp()->mutable_dense();
    config.set_hidden_size(Pick(1, 5000));
    config.set_vocab_size(Pick(1, 200000));
    config.set_tied_embedding_weight(Coin());
    config.mutable_decoder()->set_num_blocks(Pick(1, 100));
    attention->set_head_groups(Pick(1, 8));
    attention->set_heads(attention->head_groups() * Pick(1, 8));
    attention->set_head_size(2 * Pick(2, 100));
    attention->set_add_linear_biases(Coin());
    attention->set_dropout(Coin() ? 0 : Real(0, 0.9));
    mlp->set_intermediate_size(Pick(1, 20000));
    mlp->set_add_linear_biases(Coin());
    constexpr Activation kActivations[] = {SILU, GELU, GELU_TANH, RELU, SQUARED_RELU, IDENTITY, SIGMOID};
    mlp->set_activation(kActivations[Pick(0, 6)]);
    const double epsilon = Real(1e-12, 1e-3);
    config.mutable_decoder()->mutable_fixed()->mutable_normalization()->set_epsilon(epsilon);
    config.mutable_head()->mutable_normalization()->set_epsilon(epsilon);
    SetRotary(attention->mutable_rotary());
    return config;
  }

 private:
  void SetRotary(Rotary* rotary) {
    rotary->set_theta(Real(10, 1e7));
    switch (Pick(0, 4)) {
      case 0:
        rotary->mutable_standard();
        break;
      case 1:
        rotary->mutable_linear()->set_scale_factor(Real(1, 40));
        break;
      case 2:
        rotary->mutable_dynamic()->set_scale_factor(Real(1, 40));
        rotary->mutable_dynamic()->set_original_context_length(Pick(1, 200000));
        break;
      case 3:
        rotary->mutable_llama3()->set_scale_factor(Real(1, 40));
        rotary->mutable_llama3()->set_low_frequency_factor(Real(0.5, 2));
        rotary->mutable_llama3()->set_high_frequency_factor(Real(3, 8));
        rotary->mutable_llama3()->set_original_context_length(Pick(1, 200000));
        break;
      default: {
        YarnRotary* yarn = rotary->mutable_yarn();
        yarn->set_scale_factor(Real(1, 40));
        yarn->set_beta_fast(Real(16, 64));
        yarn->set_beta_slow(Real(0.5, 2));
        yarn->set_original_context_length(Pick(1, 200000));
        yarn->set_truncate(Coin());
        if (Coin()) {
          yarn->set_attention_factor(Real(0.5, 2));
        }
        if (Coin()) {
          yarn->set_mscale(Real(0, 2));
          yarn->set_mscale_all_dim(Real(0, 2));
        }
      }
    }
  }

  int64_t Pick(int64_t low, int64_t high) { return low + static_cast<int64_t>(engine_() % (high - low + 1)); }
  double Real(double low, double high) {
    return low + (high - low) * static_cast<double>(engine_()) / 1.8446744073709552e19;
  }
  bool Coin() { return Pick(0, 1) == 1; }

  std::mt19937_64 engine_{20240601};
};

TEST(LlamaPropertyTest, ImportOfAnExportIsTheConfig) {
  RandomConfigs configs;
  for (int i = 0; i < 150; ++i) {
    const DecoderConfig config = configs.Next();
    ExportConfigOptions options;
    options.layout = i % 2 == 0 ? ExternalLayout::kTransformers4 : ExternalLayout::kTransformers5;

    ASSERT_OK_AND_ASSIGN(const Json json, ExportLlamaConfig(config, nullptr, options));
    // Through text, as a file has it.
    ASSERT_OK_AND_ASSIGN(const ImportedConfig again, ImportLlamaConfig(Json::parse(json.dump()), false));

    ASSERT_EQ(again.config.SerializeAsString(), config.SerializeAsString()) << json.dump();
  }
}

TEST(LlamaPropertyTest, AnyConfigExportsOverAnyOriginal) {
  RandomConfigs configs;
  for (int i = 0; i < 150; ++i) {
    const DecoderConfig before = configs.Next();
    const DecoderConfig config = configs.Next();
    ExportConfigOptions options;
    options.layout = i % 2 == 0 ? ExternalLayout::kTransformers4 : ExternalLayout::kTransformers5;
    ASSERT_OK_AND_ASSIGN(Json original, ExportLlamaConfig(before, nullptr, options));
    original["bos_token_id"] = i;

    ASSERT_OK_AND_ASSIGN(const Json json, ExportLlamaConfig(config, &original, {}));
    ASSERT_OK_AND_ASSIGN(const ImportedConfig again, ImportLlamaConfig(json, false));

    ASSERT_EQ(again.config.SerializeAsString(), config.SerializeAsString()) << original.dump() << json.dump();
    EXPECT_EQ(json["bos_token_id"], i);
    EXPECT_EQ(json.contains("rope_parameters"), original.contains("rope_parameters"));
  }
}

}  // namespace
}  // namespace waypoint::models
