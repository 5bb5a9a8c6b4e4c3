#include "models/llama/llama_weights.h"

#include "gmock/gmock.h"
#include "models/decoder/parameters.h"
#include "tests/models/decoder/tiny_config.h"
#include "tests/testing/status_matchers.h"

namespace waypoint::models {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::IsSupersetOf;
using ::testing::Not;

// "external [shape] = expression" of an export of this config.
std::vector<std::string> Exported(const DecoderConfig& config, const std::vector<std::string>& copies = {}) {
  const auto rules = LlamaWeightRules(config, copies);
  EXPECT_OK(rules);
  const auto manifest = ParameterManifest(config, DType::kBF16);
  EXPECT_OK(manifest);
  const auto plan = PlanExport(*rules, *manifest);
  EXPECT_OK(plan);
  std::vector<std::string> lines;
  for (const ConvertedTensor& tensor : plan->tensors) {
    lines.push_back(
        absl::StrCat(tensor.name, " ", ShapeString(tensor.expression->shape()), " = ", tensor.expression->ToString()));
  }
  return lines;
}

TEST(LlamaWeightsTest, EveryTensorHasItsNameAndShape) {
  DecoderConfig config = TinyConfig();
  config.mutable_decoder()->set_num_blocks(1);

  EXPECT_THAT(
      Exported(config),
      ElementsAre("model.embed_tokens.weight [32, 16] = embeddings.word_embeddings_weight",
                  "model.layers.0.self_attn.q_proj.weight [16, 16] = decoder.0.mixer.query.weight",
                  "model.layers.0.self_attn.k_proj.weight [8, 16] = decoder.0.mixer.key_value.weight[0:8]",
                  "model.layers.0.self_attn.v_proj.weight [8, 16] = decoder.0.mixer.key_value.weight[8:16]",
                  "model.layers.0.self_attn.o_proj.weight [16, 16] = decoder.0.mixer.dense.weight",
                  "model.layers.0.mlp.gate_proj.weight [24, 16] = decoder.0.mlp.layer_1.weight[0:24]",
                  "model.layers.0.mlp.up_proj.weight [24, 16] = decoder.0.mlp.layer_1.weight[24:48]",
                  "model.layers.0.mlp.down_proj.weight [16, 24] = decoder.0.mlp.layer_2.weight",
                  "model.layers.0.input_layernorm.weight [16] = decoder.0.norm_1.weight",
                  "model.layers.0.post_attention_layernorm.weight [16] = decoder.0.norm_2.weight",
                  "model.norm.weight [16] = head.final_norm.weight", "lm_head.weight [32, 16] = head.output_weights"));
}

TEST(LlamaWeightsTest, BiasesAreCutLikeTheirWeights) {
  DecoderConfig config = TinyConfig();
  AttentionOf(config).set_add_linear_biases(true);
  config.mutable_decoder()->mutable_fixed()->mutable_mlp()->mutable_dense()->set_add_linear_biases(true);

  EXPECT_THAT(Exported(config),
              IsSupersetOf({"model.layers.1.self_attn.q_proj.bias [16] = decoder.1.mixer.query.bias",
                            "model.layers.1.self_attn.v_proj.bias [8] = decoder.1.mixer.key_value.bias[8:16]",
                            "model.layers.1.self_attn.o_proj.bias [16] = decoder.1.mixer.dense.bias",
                            "model.layers.1.mlp.up_proj.bias [24] = decoder.1.mlp.layer_1.bias[24:48]",
                            "model.layers.1.mlp.down_proj.bias [16] = decoder.1.mlp.layer_2.bias"}));
}

TEST(LlamaWeightsTest, TiedHeadsAreStoredOnlyWhereTheyWere) {
  DecoderConfig config = TinyConfig();
  config.set_tied_embedding_weight(true);

  EXPECT_THAT(Exported(config), Not(Contains(HasSubstr("lm_head"))));
  EXPECT_THAT(Exported(config, {"lm_head.weight"}),
              Contains("lm_head.weight [32, 16] = embeddings.word_embeddings_weight"));
}

// Whatever the config, import undoes export by moving nothing.
TEST(LlamaWeightsTest, ImportOfAnExportIsTheIdentity) {
  for (const bool tied : {false, true}) {
    for (const bool biases : {false, true}) {
      for (const int64_t groups : {1, 2, 4}) {
        DecoderConfig config = TinyConfig();
        config.set_tied_embedding_weight(tied);
        AttentionOf(config).set_add_linear_biases(biases);
        AttentionOf(config).set_head_groups(groups);
        ASSERT_OK_AND_ASSIGN(const WeightRules rules, LlamaWeightRules(config, {}));
        ASSERT_OK_AND_ASSIGN(const Manifest native, ParameterManifest(config, DType::kF32));
        ASSERT_OK_AND_ASSIGN(const ExportPlan exported, PlanExport(rules, native));
        Manifest external;
        for (const ConvertedTensor& tensor : exported.tensors) {
          ASSERT_OK(external.Add({tensor.name, tensor.expression->dtype(), tensor.expression->shape(), {}}));
        }
        ASSERT_OK_AND_ASSIGN(const ImportPlan imported, PlanImport(rules, native, external));
        ASSERT_EQ(static_cast<int64_t>(imported.tensors.size()), native.size());
        for (const ConvertedTensor& tensor : imported.tensors) {
          ASSERT_OK_AND_ASSIGN(const Expr whole, Substitute(tensor.expression, [&](const Expression& ref) {
                                 return exported.tensors[ref.tensor()].expression;
                               }));
          EXPECT_EQ(whole->ToString(), tensor.name);
        }
        EXPECT_THAT(imported.notes, IsEmpty());
      }
    }
  }
}

TEST(LlamaWeightsTest, RotaryFrequenciesAreDroppedWithANote) {
  const DecoderConfig config = TinyConfig();
  ASSERT_OK_AND_ASSIGN(const WeightRules rules, LlamaWeightRules(config, {}));
  ASSERT_OK_AND_ASSIGN(const Manifest native, ParameterManifest(config, DType::kF32));
  ASSERT_OK_AND_ASSIGN(const ExportPlan exported, PlanExport(rules, native));
  Manifest external;
  for (const ConvertedTensor& tensor : exported.tensors) {
    ASSERT_OK(external.Add({tensor.name, tensor.expression->dtype(), tensor.expression->shape(), {}}));
  }
  for (const char* name : {"model.layers.0.self_attn.rotary_emb.inv_freq",
                           "model.layers.1.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"}) {
    ASSERT_OK(external.Add({name, DType::kF32, {2}, {}}));
  }
  ASSERT_OK_AND_ASSIGN(const ImportPlan plan, PlanImport(rules, native, external));
  EXPECT_THAT(plan.notes, ElementsAre(AllOf(HasSubstr("2 tensors"), HasSubstr("computed from the config")),
                                      HasSubstr("1 tensor \"model.rotary_emb.inv_freq\"")));
}

TEST(LlamaWeightsTest, BlocksThatHaveNoNamesAreRefused) {
  DecoderConfig moe = TinyConfig();
  MakeMoe(moe, 4);
  EXPECT_THAT(LlamaWeightRules(moe, {}), IsKind(ErrorKind::kUnsupported, HasSubstr("decoder.0")));

  DecoderConfig plain = TinyConfig();
  plain.mutable_decoder()->mutable_fixed()->mutable_mlp()->mutable_dense()->set_gated(false);
  EXPECT_THAT(LlamaWeightRules(plain, {}), IsKind(ErrorKind::kUnsupported));

  DecoderConfig half = TinyConfig();
  AttentionOf(half).set_key_bias(true);
  AttentionOf(half).set_value_bias(false);
  EXPECT_THAT(LlamaWeightRules(half, {}), IsKind(ErrorKind::kUnsupported, HasSubstr("key and value")));
}

}  // namespace
}  // namespace waypoint::models
