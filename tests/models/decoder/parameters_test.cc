#include "models/decoder/parameters.h"

#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/models/decoder/tiny_config.h"
#include "tests/testing/status_matchers.h"

namespace waypoint::models {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Pair;

std::vector<std::pair<std::string, std::string>> NamesAndShapes(const DecoderConfig& config) {
  const auto manifest = ParameterManifest(config, DType::kBF16);
  EXPECT_THAT(manifest, IsOk());
  std::vector<std::pair<std::string, std::string>> result;
  for (const TensorMeta& tensor : manifest->tensors()) {
    EXPECT_EQ(tensor.dtype, DType::kBF16);
    result.emplace_back(tensor.name, ShapeString(tensor.shape));
  }
  return result;
}

TEST(ParameterManifestTest, LlamaLike) {
  DecoderConfig config = TinyConfig();
  config.mutable_decoder()->set_num_blocks(1);

  EXPECT_THAT(
      NamesAndShapes(config),
      ElementsAre(Pair("embeddings.word_embeddings_weight", "[32, 16]"), Pair("decoder.0.norm_1.weight", "[16]"),
                  Pair("decoder.0.mixer.query.weight", "[16, 16]"),
                  Pair("decoder.0.mixer.key_value.weight", "[16, 16]"),
                  Pair("decoder.0.mixer.dense.weight", "[16, 16]"), Pair("decoder.0.norm_2.weight", "[16]"),
                  Pair("decoder.0.mlp.layer_1.weight", "[48, 16]"), Pair("decoder.0.mlp.layer_2.weight", "[16, 24]"),
                  Pair("head.final_norm.weight", "[16]"), Pair("head.output_weights", "[32, 16]")));
}

TEST(ParameterManifestTest, EveryOptionalPart) {
  DecoderConfig config = TinyConfig();
  config.set_tied_embedding_weight(true);
  config.mutable_embeddings()->set_num_position_embeddings(10);
  config.mutable_decoder()->set_num_blocks(1);
  config.mutable_head()->set_prediction_heads(2);
  Block& block = *config.mutable_decoder()->mutable_fixed();
  block.set_output_scale(true);
  *block.mutable_post_mixer_normalization() = block.normalization();
  *block.mutable_post_mlp_normalization() = block.normalization();
  block.mutable_pre_mlp_normalization()->set_kind(Normalization::LAYER_NORM);
  block.mutable_pre_mlp_normalization()->set_epsilon(1e-5);
  Attention& attention = AttentionOf(config);
  attention.set_add_linear_biases(true);
  attention.set_dense_bias(false);
  attention.set_value_bias(false);
  *attention.mutable_query_norm() = block.normalization();
  *attention.mutable_key_norm() = block.normalization();
  attention.mutable_value_norm()->set_kind(Normalization::FIXED_RMS_NORM);
  attention.mutable_value_norm()->set_epsilon(1e-5);
  MoeMlp& moe = MakeMoe(config, 3);
  moe.mutable_expert()->set_layer_1_bias(true);
  const std::vector<std::pair<std::string, std::string>> block_parameters = {{"norm_1.weight", "[16]"},
                                                                             {"mixer.query.weight", "[16, 16]"},
                                                                             {"mixer.query.bias", "[16]"},
                                                                             {"mixer.key_value.weight", "[16, 16]"},
                                                                             {"mixer.key_value.bias", "[8]"},
                                                                             {"mixer.query_norm.weight", "[4]"},
                                                                             {"mixer.key_norm.weight", "[4]"},
                                                                             {"mixer.dense.weight", "[16, 16]"},
                                                                             {"post_mixer_norm.weight", "[16]"},
                                                                             {"norm_2.weight", "[16]"},
                                                                             {"norm_2.bias", "[16]"},
                                                                             {"mlp.router.weight", "[3, 16]"},
                                                                             {"mlp.layer_1.weight", "[3, 48, 16]"},
                                                                             {"mlp.layer_1.bias", "[3, 48]"},
                                                                             {"mlp.layer_2.weight", "[3, 16, 24]"},
                                                                             {"post_mlp_norm.weight", "[16]"},
                                                                             {"output_scale", "[1]"}};
  std::vector<std::pair<std::string, std::string>> expected = {{"embeddings.word_embeddings_weight", "[32, 16]"},
                                                               {"embeddings.position_embeddings_weight", "[10, 16]"}};
  for (const auto& [name, shape] : block_parameters) {
    expected.emplace_back("decoder.0." + name, shape);
  }
  expected.emplace_back("head.final_norm.weight", "[16]");
  for (const auto& [name, shape] : block_parameters) {
    expected.emplace_back("multi_token_prediction.blocks.0." + name, shape);
  }
  expected.emplace_back("multi_token_prediction.heads.0.final_norm.weight", "[16]");

  EXPECT_EQ(NamesAndShapes(config), expected);
}

TEST(ParameterManifestTest, PatternRepeatsAndIsCut) {
  DecoderConfig config = TinyConfig();
  const Block wide = config.decoder().fixed();
  Block narrow = wide;
  narrow.mutable_mlp()->mutable_dense()->set_intermediate_size(8);
  BlockPattern& pattern = *config.mutable_decoder()->mutable_pattern();
  (*pattern.mutable_blocks())["wide"] = wide;
  (*pattern.mutable_blocks())["narrow"] = narrow;
  pattern.add_pattern("wide");
  pattern.add_pattern("narrow");
  config.mutable_decoder()->set_num_blocks(3);

  const auto manifest = ParameterManifest(config, DType::kF32);

  ASSERT_THAT(manifest, IsOk());
  const auto rows = [&](const char* name) { return (*manifest)[manifest->Find(name)].shape[0]; };
  EXPECT_EQ(rows("decoder.0.mlp.layer_1.weight"), 48);
  EXPECT_EQ(rows("decoder.1.mlp.layer_1.weight"), 16);
  EXPECT_EQ(rows("decoder.2.mlp.layer_1.weight"), 48);
  EXPECT_EQ(manifest->Find("decoder.3.mlp.layer_1.weight"), -1);
}

TEST(ParameterManifestTest, StochasticMixersHaveTheirNamesInOrder) {
  DecoderConfig config = TinyConfig();
  config.mutable_decoder()->set_num_blocks(1);
  Mixer& mixer = *config.mutable_decoder()->mutable_fixed()->mutable_mixer();
  const Mixer attention = mixer;
  StochasticMixer& stochastic = *mixer.mutable_stochastic();
  (*stochastic.mutable_mixers())["b"] = attention;
  (*stochastic.mutable_mixers())["a"] = attention;
  stochastic.set_main_mixer_name("b");

  const auto manifest = ParameterManifest(config, DType::kF32);

  ASSERT_THAT(manifest, IsOk());
  EXPECT_EQ((*manifest)[2].name, "decoder.0.mixer.mixers.a.query.weight");
  EXPECT_EQ((*manifest)[5].name, "decoder.0.mixer.mixers.b.query.weight");
}

TEST(ParameterManifestTest, NamesPartsWithoutDefinedParameters) {
  DecoderConfig config = TinyConfig();
  config.mutable_head()->mutable_normalization()->set_kind(Normalization::GATED_RMS_NORM);
  MoeMlp& moe = MakeMoe(config, 4);
  moe.set_shared_experts(1);
  moe.set_router_scale(true);

  EXPECT_THAT(ParameterManifest(config, DType::kF32),
              IsKind(ErrorKind::kUnsupported,
                     AllOf(HasSubstr("3 parts"), HasSubstr("decoder.fixed.mlp.moe.shared_experts is 1"),
                           HasSubstr("decoder.fixed.mlp.moe.router_scale is true"),
                           HasSubstr("head.normalization.kind is GATED_RMS_NORM"))));
}

TEST(ValidateConfigTest, AcceptsTheTinyConfig) { EXPECT_THAT(ValidateConfig(TinyConfig()), IsOk()); }

TEST(ValidateConfigTest, EmptyConfigIsRefusedAsAWhole) {
  EXPECT_THAT(ValidateConfig(DecoderConfig()),
              IsKind(ErrorKind::kConfig,
                     AllOf(HasSubstr("hidden_size is 0"), HasSubstr("vocab_size is 0"),
                           HasSubstr("neither a fixed block nor a pattern"), HasSubstr("head.prediction_heads is 0"))));
}

TEST(ValidateConfigTest, AllProblemsComeTogether) {
  DecoderConfig config = TinyConfig();
  config.set_hidden_size(-5);
  Attention& attention = AttentionOf(config);
  attention.set_head_groups(3);
  attention.mutable_rotary()->set_theta(std::numeric_limits<double>::infinity());
  attention.set_window_size(0);
  config.mutable_decoder()->mutable_fixed()->mutable_normalization()->set_epsilon(
      std::numeric_limits<double>::quiet_NaN());

  EXPECT_THAT(ValidateConfig(config),
              IsKind(ErrorKind::kConfig,
                     AllOf(HasSubstr("5 problems"), HasSubstr("hidden_size is -5"),
                           HasSubstr("decoder.fixed.mixer.attention.heads is 4, must be a multiple of head_groups"),
                           HasSubstr("decoder.fixed.mixer.attention.rotary.theta is inf"),
                           HasSubstr("decoder.fixed.mixer.attention.window_size is 0"),
                           HasSubstr("decoder.fixed.normalization.epsilon is nan"))));
}

TEST(ValidateConfigTest, CountsThatWouldBeLoopedOverAreBounded) {
  DecoderConfig config = TinyConfig();
  config.mutable_decoder()->set_num_blocks(int64_t{1} << 62);
  config.mutable_head()->set_prediction_heads(int64_t{1} << 40);

  EXPECT_THAT(ValidateConfig(config),
              IsKind(ErrorKind::kConfig, AllOf(HasSubstr("decoder.num_blocks"), HasSubstr("head.prediction_heads"))));
}

TEST(ValidateConfigTest, ProductOfAllowedSizesIsBounded) {
  DecoderConfig config = TinyConfig();
  config.set_hidden_size(int64_t{1} << 30);
  config.set_vocab_size(int64_t{1} << 30);

  EXPECT_THAT(ValidateConfig(config), IsKind(ErrorKind::kConfig, HasSubstr("word_embeddings_weight")));
}

TEST(ValidateConfigTest, LargestSizesOfEveryKindDoNotOverflow) {
  DecoderConfig config = TinyConfig();
  const int64_t largest = int64_t{1} << 30;
  Attention& attention = AttentionOf(config);
  attention.set_heads(largest);
  attention.set_head_groups(largest);
  attention.set_head_size(largest);
  MakeMoe(config, 65'536).mutable_expert()->set_intermediate_size(largest);

  EXPECT_THAT(ValidateConfig(config), IsKind(ErrorKind::kConfig, HasSubstr("query.weight")));
}

TEST(ValidateConfigTest, ExpertsOfAllBlocksAreBounded) {
  DecoderConfig config = TinyConfig();
  config.mutable_decoder()->set_num_blocks(65'536);
  MakeMoe(config, 65'536);

  EXPECT_THAT(ValidateConfig(config), IsKind(ErrorKind::kConfig, HasSubstr("4294967296 experts")));
}

TEST(ValidateConfigTest, PatternMustNameItsBlocks) {
  DecoderConfig config = TinyConfig();
  const Block block = config.decoder().fixed();
  BlockPattern& pattern = *config.mutable_decoder()->mutable_pattern();
  (*pattern.mutable_blocks())["full"] = block;
  pattern.add_pattern("full");
  pattern.add_pattern("sliding");

  EXPECT_THAT(ValidateConfig(config),
              IsKind(ErrorKind::kConfig, HasSubstr("decoder.pattern.pattern[1] is \"sliding\"")));
}

struct BadField {
  const char* message;
  void (*change)(DecoderConfig&);
};

class BadFieldTest : public testing::TestWithParam<BadField> {};

TEST_P(BadFieldTest, IsRefusedByName) {
  DecoderConfig config = TinyConfig();
  GetParam().change(config);

  EXPECT_THAT(ValidateConfig(config), IsKind(ErrorKind::kConfig, HasSubstr(GetParam().message)));
}

INSTANTIATE_TEST_SUITE_P(
    Fields, BadFieldTest,
    testing::Values(
        BadField{"embeddings.embedding_scale is 0", [](auto& c) { c.mutable_embeddings()->set_embedding_scale(0); }},
        BadField{"head.logits_scale_factor is -1", [](auto& c) { c.mutable_head()->set_logits_scale_factor(-1); }},
        BadField{"head.final_logit_softcap is 0", [](auto& c) { c.mutable_head()->set_final_logit_softcap(0); }},
        BadField{"even head_size", [](auto& c) { AttentionOf(c).set_head_size(5); }},
        BadField{"attention.rotary is unset", [](auto& c) { AttentionOf(c).clear_rotary(); }},
        BadField{"softmax_scale_power is -1", [](auto& c) { AttentionOf(c).set_softmax_scale_power(-1); }},
        BadField{"llama3.high_frequency_factor is 1",
                 [](auto& c) {
                   auto& llama3 = *AttentionOf(c).mutable_rotary()->mutable_llama3();
                   llama3.set_scale_factor(8);
                   llama3.set_low_frequency_factor(1);
                   llama3.set_high_frequency_factor(1);
                   llama3.set_original_context_length(64);
                 }},
        BadField{"yarn.beta_fast is 1, must be at least beta_slow",
                 [](auto& c) {
                   auto& yarn = *AttentionOf(c).mutable_rotary()->mutable_yarn();
                   yarn.set_scale_factor(8);
                   yarn.set_beta_fast(1);
                   yarn.set_beta_slow(2);
                   yarn.set_original_context_length(64);
                 }},
        BadField{"linear.scale_factor is 0", [](auto& c) { AttentionOf(c).mutable_rotary()->mutable_linear(); }},
        BadField{"dynamic.original_context_length is 0",
                 [](auto& c) { AttentionOf(c).mutable_rotary()->mutable_dynamic()->set_scale_factor(2); }},
        BadField{
            "dense.activation is 0",
            [](auto& c) { c.mutable_decoder()->mutable_fixed()->mutable_mlp()->mutable_dense()->clear_activation(); }},
        BadField{"mlp is unset", [](auto& c) { c.mutable_decoder()->mutable_fixed()->clear_mlp(); }},
        BadField{"mixer is unset", [](auto& c) { c.mutable_decoder()->mutable_fixed()->clear_mixer(); }},
        BadField{"fixed.normalization.kind is 0",
                 [](auto& c) { c.mutable_decoder()->mutable_fixed()->clear_normalization(); }},
        BadField{"fixed.dropout is 1", [](auto& c) { c.mutable_decoder()->mutable_fixed()->set_dropout(1); }},
        BadField{"experts_per_token is 5", [](auto& c) { MakeMoe(c, 4).set_experts_per_token(5); }},
        BadField{"main_mixer_name is \"x\"", [](auto& c) {
                   c.mutable_decoder()->mutable_fixed()->mutable_mixer()->mutable_stochastic()->set_main_mixer_name(
                       "x");
                 }}));

TEST(CompareArchitectureTest, EqualConfigsHaveNoDifferences) {
  EXPECT_THAT(CompareArchitecture(TinyConfig(), TinyConfig()), IsEmpty());
}

TEST(CompareArchitectureTest, NamesFieldsAndValues) {
  const DecoderConfig a = TinyConfig();
  DecoderConfig b = a;
  b.set_tied_embedding_weight(true);
  b.mutable_head()->set_prediction_heads(2);
  b.mutable_decoder()->mutable_fixed()->mutable_mlp()->mutable_dense()->set_activation(GELU);
  AttentionOf(b).set_window_size(7);
  AttentionOf(b).mutable_rotary()->mutable_linear();

  EXPECT_THAT(
      CompareArchitecture(a, b),
      ElementsAre("tied_embedding_weight: false != true", "decoder.fixed.mixer.attention.rotary.standard: set != unset",
                  "decoder.fixed.mixer.attention.rotary.linear: unset != set",
                  "decoder.fixed.mixer.attention.window_size: unset != 7",
                  "decoder.fixed.mlp.dense.activation: SILU != GELU", "head.prediction_heads: 1 != 2"));
}

TEST(CompareArchitectureTest, OtherFieldsDoNotCount) {
  const DecoderConfig a = TinyConfig();
  DecoderConfig b = a;
  AttentionOf(b).set_dropout(0.5);

  EXPECT_THAT(CompareArchitecture(a, b), IsEmpty());
}

TEST(CompareArchitectureTest, DescendsIntoMapsAndLists) {
  DecoderConfig a = TinyConfig();
  const Block block = a.decoder().fixed();
  BlockPattern& pattern = *a.mutable_decoder()->mutable_pattern();
  (*pattern.mutable_blocks())["x"] = block;
  pattern.add_pattern("x");
  pattern.add_pattern("x");
  DecoderConfig b = a;
  BlockPattern& other = *b.mutable_decoder()->mutable_pattern();
  (*other.mutable_blocks())["x"].set_output_scale(true);
  (*other.mutable_blocks())["y"] = block;
  other.set_pattern(1, "y");

  EXPECT_THAT(CompareArchitecture(a, b),
              ElementsAre("decoder.pattern.blocks[\"x\"].output_scale: false != true",
                          "decoder.pattern.blocks[\"y\"]: unset != set", "decoder.pattern.pattern[1]: \"x\" != \"y\""));
}

}  // namespace
}  // namespace waypoint::models
