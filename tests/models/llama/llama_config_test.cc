#include "models/llama/llama_config.h"

#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "google/protobuf/util/message_differencer.h"
#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"

namespace waypoint::models {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::Field;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr const char* kFixtures[] = {"llama1_fp16_bin", "llama2_fp16_bin_sharded", "llama2_fp32",        "llama31_fp32",
                                     "llama31_v5_bf16", "llama32_tied_bf16",       "llama3_bf16_sharded"};

Json ReadConfig(absl::string_view name) {
  std::ifstream file(absl::StrCat("tests/testdata/llama_configs/", name, ".json"));
  std::stringstream text;
  text << file.rdbuf();
  return Json::parse(text.str());
}

Json Small() {
  return Json::parse(R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8,
      "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
      "vocab_size": 16, "max_position_embeddings": 32, "rms_norm_eps": 1e-05, "rope_theta": 10000.0,
      "hidden_act": "silu", "tie_word_embeddings": false, "torch_dtype": "float32", "bos_token_id": 1,
      "eos_token_id": 2})");
}

Json With(const char* key, const char* value) {
  Json config = Small();
  config[key] = Json::parse(value);
  return config;
}

Json Without(const char* key) {
  Json config = Small();
  config.erase(key);
  return config;
}

const Attention& AttentionOf(const ImportedConfig& imported) {
  return imported.config.decoder().fixed().mixer().attention();
}

class LlamaFixtureTest : public ::testing::TestWithParam<const char*> {};

TEST_P(LlamaFixtureTest, RoundTripIsTheSameText) {
  const Json original = ReadConfig(GetParam());
  ASSERT_OK_AND_ASSIGN(const ImportedConfig imported, ImportLlamaConfig(original, false));

  ASSERT_OK_AND_ASSIGN(const Json again, ExportLlamaConfig(imported.config, &original, {}));

  EXPECT_EQ(again.dump(), original.dump());
  EXPECT_THAT(imported.notes, IsEmpty());
}

TEST_P(LlamaFixtureTest, ExportWithoutTheOriginalImportsToTheSameConfig) {
  ASSERT_OK_AND_ASSIGN(const ImportedConfig imported, ImportLlamaConfig(ReadConfig(GetParam()), false));
  for (const ExternalLayout layout : {ExternalLayout::kTransformers4, ExternalLayout::kTransformers5}) {
    ExportConfigOptions options;
    options.layout = layout;

    ASSERT_OK_AND_ASSIGN(const Json fresh, ExportLlamaConfig(imported.config, nullptr, options));
    ASSERT_OK_AND_ASSIGN(const ImportedConfig again, ImportLlamaConfig(fresh, false));

    EXPECT_EQ(imported.config.DebugString(), again.config.DebugString());
  }
}

INSTANTIATE_TEST_SUITE_P(Fixtures, LlamaFixtureTest, ::testing::ValuesIn(kFixtures));

TEST(LlamaImportTest, ReadsEveryField) {
  ASSERT_OK_AND_ASSIGN(const ImportedConfig imported, ImportLlamaConfig(ReadConfig("llama32_tied_bf16"), false));
  const DecoderConfig& config = imported.config;

  EXPECT_EQ(config.hidden_size(), 64);
  EXPECT_EQ(config.vocab_size(), 320);
  EXPECT_TRUE(config.tied_embedding_weight());
  EXPECT_EQ(config.decoder().num_blocks(), 3);
  EXPECT_EQ(AttentionOf(imported).heads(), 4);
  EXPECT_EQ(AttentionOf(imported).head_groups(), 2);
  EXPECT_EQ(AttentionOf(imported).head_size(), 16);
  EXPECT_TRUE(AttentionOf(imported).causal());
  EXPECT_EQ(AttentionOf(imported).rotary().theta(), 500000.0);
  EXPECT_EQ(AttentionOf(imported).rotary().llama3().scale_factor(), 32.0);
  EXPECT_EQ(AttentionOf(imported).rotary().llama3().original_context_length(), 64);
  EXPECT_EQ(config.decoder().fixed().mlp().dense().intermediate_size(), 172);
  EXPECT_EQ(config.decoder().fixed().mlp().dense().activation(), SILU);
  EXPECT_TRUE(config.decoder().fixed().mlp().dense().gated());
  EXPECT_EQ(config.decoder().fixed().normalization().epsilon(), 1e-5);
  EXPECT_EQ(config.head().normalization().epsilon(), 1e-5);
  EXPECT_EQ(config.head().prediction_heads(), 1);
  EXPECT_THAT(imported.carried, Contains(Field(&CarriedKey::path, ElementsAre("max_position_embeddings"))));
}

TEST(LlamaImportTest, AbsentKeysHaveTheClassDefaults) {
  ASSERT_OK_AND_ASSIGN(const ImportedConfig imported,
                       ImportLlamaConfig(Json::parse(R"({"model_type": "llama"})"), false));

  EXPECT_EQ(imported.config.vocab_size(), 32000);
  EXPECT_EQ(imported.config.hidden_size(), 4096);
  EXPECT_EQ(imported.config.decoder().num_blocks(), 32);
  EXPECT_EQ(imported.config.decoder().fixed().mlp().dense().intermediate_size(), 11008);
  EXPECT_EQ(AttentionOf(imported).heads(), 32);
  EXPECT_EQ(AttentionOf(imported).head_groups(), 32);
  EXPECT_EQ(AttentionOf(imported).head_size(), 128);
  EXPECT_EQ(AttentionOf(imported).rotary().theta(), 10000.0);
  EXPECT_TRUE(AttentionOf(imported).rotary().has_standard());
  EXPECT_EQ(imported.config.decoder().fixed().normalization().epsilon(), 1e-6);
  EXPECT_FALSE(imported.config.tied_embedding_weight());
  EXPECT_THAT(imported.notes, Contains(HasSubstr("\"hidden_size\" is absent; its default 4096")));
}

TEST(LlamaImportTest, NullMeansAbsent) {
  ASSERT_OK_AND_ASSIGN(const ImportedConfig absent, ImportLlamaConfig(Small(), false));
  for (const char* key : {"head_dim", "rope_scaling", "rope_parameters", "attention_bias", "mlp_bias",
                          "attention_dropout", "quantization_config", "sliding_window", "pad_token_id"}) {
    const Json config = With(key, "null");
    ASSERT_OK_AND_ASSIGN(const ImportedConfig imported, ImportLlamaConfig(config, false));
    EXPECT_EQ(imported.config.DebugString(), absent.config.DebugString()) << key;
    ASSERT_OK_AND_ASSIGN(const Json again, ExportLlamaConfig(imported.config, &config, {}));
    EXPECT_EQ(again.dump(), config.dump());
  }
  ASSERT_OK_AND_ASSIGN(const ImportedConfig groups, ImportLlamaConfig(With("num_key_value_heads", "null"), false));
  EXPECT_EQ(AttentionOf(groups).head_groups(), 2);
}

TEST(LlamaImportTest, NullSizesAreMistakes) {
  for (const char* key :
       {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"}) {
    EXPECT_THAT(ImportLlamaConfig(With(key, "null"), false),
                IsKind(ErrorKind::kConfig, HasSubstr(absl::StrCat("\"", key, "\" is null"))));
  }
}

TEST(LlamaImportTest, ImpossibleValuesAreRefused) {
  const struct {
    const char* key;
    const char* value;
  } kCases[] = {
      {"hidden_size", "0"},
      {"hidden_size", "-8"},
      {"hidden_size", "8.0"},
      {"hidden_size", "true"},
      {"hidden_size", "[8]"},
      {"hidden_size", "9223372036854775808"},
      {"num_attention_heads", "0"},
      {"num_attention_heads", "3"},
      {"num_key_value_heads", "0"},
      {"num_key_value_heads", "4"},
      {"num_hidden_layers", "0"},
      {"num_hidden_layers", "-1"},
      {"intermediate_size", "4611686018427387904"},
      {"head_dim", "0"},
      {"rms_norm_eps", "\"1e-5\""},
      {"rms_norm_eps", "-1e-5"},
      {"rope_theta", "0"},
      {"vocab_size", "1e3"},
      {"hidden_act", "\"mish\""},
      {"hidden_act", "7"},
      {"tie_word_embeddings", "1"},
      {"attention_bias", "\"no\""},
      {"attention_dropout", "2.0"},
      {"rope_scaling", "[]"},
      {"rope_theta", "true"},
      {"num_hidden_layers", "99999999999"},
  };
  for (const auto& test_case : kCases) {
    EXPECT_THAT(ImportLlamaConfig(With(test_case.key, test_case.value), false), IsKind(ErrorKind::kConfig))
        << test_case.key << " = " << test_case.value;
  }
}

TEST(LlamaImportTest, ImpossibleValuesAreNamedByTheirKey) {
  EXPECT_THAT(ImportLlamaConfig(With("num_hidden_layers", "0"), false),
              IsKind(ErrorKind::kConfig, HasSubstr("\"num_hidden_layers\" (decoder.num_blocks) is 0")));
}

TEST(LlamaImportTest, AllProblemsComeInOneError) {
  Json config = With("hidden_size", "8.0");
  config["rms_norm_eps"] = "small";
  config["rope_scaling"] = Json::parse(R"({"type": "linear", "factr": 2.0})");
  config["sliding_window"] = 128;

  EXPECT_THAT(ImportLlamaConfig(config, false),
              IsKind(ErrorKind::kConfig,
                     AllOf(HasSubstr("\"hidden_size\" is 8.0, wanted an integer"),
                           HasSubstr("\"rms_norm_eps\" is \"small\""), HasSubstr("\"rope_scaling.factor\" is missing"),
                           HasSubstr("\"rope_scaling.factr\" = 2.0"), HasSubstr("\"sliding_window\" = 128"))));
}

TEST(LlamaImportTest, OtherModelsAreUnsupported) {
  EXPECT_THAT(ImportLlamaConfig(With("model_type", "\"mistral\""), false),
              IsKind(ErrorKind::kUnsupported, HasSubstr("\"model_type\" is \"mistral\"")));
  EXPECT_THAT(ImportLlamaConfig(With("architectures", "[\"LlamaForSequenceClassification\"]"), false),
              IsKind(ErrorKind::kUnsupported, HasSubstr("LlamaForSequenceClassification")));
  EXPECT_THAT(ImportLlamaConfig(With("quantization_config", "{\"quant_method\": \"gptq\"}"), false),
              IsKind(ErrorKind::kUnsupported, HasSubstr("dequantize")));
  EXPECT_THAT(ImportLlamaConfig(Without("model_type"), false), IsKind(ErrorKind::kConfig, HasSubstr("model_type")));
  EXPECT_THAT(ImportLlamaConfig(Json::object(), false), IsKind(ErrorKind::kConfig));
  EXPECT_THAT(ImportLlamaConfig(Json::array(), false), IsKind(ErrorKind::kSchema));
  EXPECT_OK(ImportLlamaConfig(Without("architectures"), false));
}

TEST(LlamaImportTest, UnknownKeysAreCarriedOnRequestOnly) {
  const Json config = With("brand_new_field", "{\"x\": [1, 2]}");
  EXPECT_THAT(ImportLlamaConfig(config, false),
              IsKind(ErrorKind::kConfig, HasSubstr("\"brand_new_field\" = {\"x\":[1,2]}")));

  ASSERT_OK_AND_ASSIGN(const ImportedConfig imported, ImportLlamaConfig(config, true));
  ASSERT_OK_AND_ASSIGN(const Json again, ExportLlamaConfig(imported.config, &config, {}));

  EXPECT_EQ(again.dump(), config.dump());
  EXPECT_THAT(imported.notes, Contains(HasSubstr("brand_new_field")));
}

TEST(LlamaImportTest, HarmlessKeysPassThrough) {
  Json config = With("auto_map", "{\"AutoModelForCausalLM\": \"evil.Evil\"}");
  config["pretraining_tp"] = 2;
  config["eos_token_id"] = Json::array({128001, 128009});
  config["id2label"] = Json::parse(R"({"0": "LABEL_0"})");
  config["temperature"] = 0.6;
  ASSERT_OK_AND_ASSIGN(const ImportedConfig imported, ImportLlamaConfig(config, false));

  ASSERT_OK_AND_ASSIGN(const Json again, ExportLlamaConfig(imported.config, &config, {}));

  EXPECT_EQ(again.dump(), config.dump());
  EXPECT_THAT(imported.notes, IsEmpty());
}

// Keys beyond the architecture that published configs have.
TEST(LlamaImportTest, PublishedConfigsNeedNoFlag) {
  for (const char* members : {
           // The first LLaMA conversions.
           R"({"_name_or_path": "", "max_sequence_length": 2048, "pad_token_id": -1,
               "transformers_version": "4.28.0.dev0"})",
           // SmolLM2.
           R"({"is_llama_config": true, "rope_interleaved": false, "pretraining_tp": 1,
               "transformers.js_config": {"kv_cache_dtype": {"fp16": "float16"}}})",
           // Fine-tunes.
           R"({"unsloth_fixed": true, "unsloth_version": "2024.9", "_attn_implementation": "sdpa",
               "_attn_implementation_autoset": true, "_flash_attn_2_enabled": true, "use_flash_attention_2": true,
               "gradient_checkpointing": false, "unk_token_id": 0})",
           // transformers 5.
           R"({"dtype": "bfloat16", "layer_types": null, "chunk_size_feed_forward": 0,
               "keys_to_ignore_at_inference": ["past_key_values"], "output_attentions": false})",
       }) {
    Json config = Small();
    config.update(Json::parse(members));

    ASSERT_OK_AND_ASSIGN(const ImportedConfig imported, ImportLlamaConfig(config, false));
    ASSERT_OK_AND_ASSIGN(const Json again, ExportLlamaConfig(imported.config, &config, {}));

    EXPECT_EQ(again.dump(), config.dump());
  }
  EXPECT_THAT(ImportLlamaConfig(With("rope_interleaved", "true"), true),
              IsKind(ErrorKind::kUnsupported, HasSubstr("rope_interleaved")));
}

TEST(LlamaImportTest, BiasesAndExplicitHeadDim) {
  Json config = With("attention_bias", "true");
  config["mlp_bias"] = true;
  config["head_dim"] = 6;
  config["num_attention_heads"] = 3;
  config["num_key_value_heads"] = 3;
  ASSERT_OK_AND_ASSIGN(const ImportedConfig imported, ImportLlamaConfig(config, false));

  EXPECT_TRUE(AttentionOf(imported).add_linear_biases());
  EXPECT_TRUE(imported.config.decoder().fixed().mlp().dense().add_linear_biases());
  EXPECT_EQ(AttentionOf(imported).head_size(), 6);
}

TEST(LlamaImportTest, ActivationsKeepTheirNameAndTheirMeaning) {
  const struct {
    const char* name;
    Activation activation;
  } kCases[] = {{"silu", SILU},
                {"swish", SILU},
                {"gelu", GELU},
                {"gelu_new", GELU_TANH},
                {"gelu_pytorch_tanh", GELU_TANH},
                {"relu", RELU},
                {"relu2", SQUARED_RELU},
                {"sigmoid", SIGMOID}};
  for (const auto& test_case : kCases) {
    Json config = Small();
    config["hidden_act"] = test_case.name;
    ASSERT_OK_AND_ASSIGN(const ImportedConfig imported, ImportLlamaConfig(config, false));
    EXPECT_EQ(imported.config.decoder().fixed().mlp().dense().activation(), test_case.activation) << test_case.name;
    ASSERT_OK_AND_ASSIGN(const Json again, ExportLlamaConfig(imported.config, &config, {}));
    EXPECT_EQ(again["hidden_act"], test_case.name);
  }
}

}  // namespace
}  // namespace waypoint::models
