#include "models/decoder/decoder_module.h"

#include <cmath>
#include <memory>
#include <string>

#include "ATen/ATen.h"
#include "absl/strings/match.h"
#include "c10/core/GradMode.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/models/decoder/tiny_config.h"
#include "tests/testing/status_matchers.h"

namespace waypoint::models {
namespace {

using testing::AllOf;
using testing::HasSubstr;

std::unique_ptr<DecoderModule> Make(const DecoderConfig& config, at::ScalarType dtype = at::kFloat) {
  auto module = DecoderModule::Create(config, dtype);
  EXPECT_THAT(module, IsOk());
  (*module)->Initialize(1);
  return *std::move(module);
}

at::Tensor Get(const DecoderModule& module, const std::string& name) {
  for (const auto& [parameter_name, parameter] : module.parameters()) {
    if (parameter_name == name) {
      return parameter;
    }
  }
  ADD_FAILURE() << "no parameter " << name;
  return at::Tensor();
}

// Larger weights than Initialize's, so that a wrong path shows in the logits.
void Randomize(DecoderModule& module) {
  const c10::NoGradGuard no_grad;
  for (const auto& [name, parameter] : module.parameters()) {
    parameter.copy_(at::sin(at::arange(parameter.numel(), at::kDouble) * 0.7 + static_cast<double>(name.size()))
                        .view(parameter.sizes()));
  }
}

at::Tensor Tokens(int64_t batch, int64_t length) {
  return (at::arange(batch * length, at::kLong) * 7 + 3).remainder(32).view({batch, length});
}

at::Tensor Logits(DecoderModule& module, const at::Tensor& tokens) {
  const auto logits = module.Forward(tokens);
  EXPECT_THAT(logits, IsOk());
  return *logits;
}

TEST(DecoderModuleTest, LogitsHaveTheParametersDtypeAndShape) {
  const at::Tensor logits = Logits(*Make(TinyConfig(), at::kBFloat16), Tokens(2, 5));

  EXPECT_EQ(logits.scalar_type(), at::kBFloat16);
  EXPECT_EQ(logits.sizes(), at::IntArrayRef({2, 5, 32}));
}

TEST(DecoderModuleTest, InitializeDependsOnSeedAndNameOnly) {
  DecoderConfig deeper = TinyConfig();
  deeper.mutable_decoder()->set_num_blocks(3);
  const auto one = Make(TinyConfig());
  const auto same = Make(deeper);
  const auto other = Make(TinyConfig());
  other->Initialize(2);

  EXPECT_TRUE(at::equal(Get(*one, "head.output_weights"), Get(*same, "head.output_weights")));
  EXPECT_FALSE(at::equal(Get(*one, "head.output_weights"), Get(*other, "head.output_weights")));
  EXPECT_FALSE(at::equal(Get(*one, "decoder.0.mixer.query.weight"), Get(*one, "decoder.1.mixer.query.weight")));
  EXPECT_TRUE(at::equal(Get(*one, "head.final_norm.weight"), at::ones({16})));
  EXPECT_NEAR(at::std(Get(*one, "head.output_weights")).item<double>(), 0.02, 0.003);
}

TEST(DecoderModuleTest, LaterTokensDoNotChangeEarlierLogits) {
  const auto module = Make(TinyConfig());
  Randomize(*module);
  const at::Tensor tokens = Tokens(1, 6);
  at::Tensor changed = tokens.clone();
  changed[0][4] = (tokens[0][4] + 1).remainder(32);

  const at::Tensor before = Logits(*module, tokens);
  const at::Tensor after = Logits(*module, changed);

  EXPECT_TRUE(at::equal(before.narrow(1, 0, 4), after.narrow(1, 0, 4)));
  EXPECT_FALSE(at::allclose(before[0][5], after[0][5]));
}

TEST(DecoderModuleTest, WindowHidesWhatIsFurtherBack) {
  DecoderConfig config = TinyConfig();
  config.mutable_decoder()->set_num_blocks(1);
  AttentionOf(config).set_window_size(3);
  const auto module = Make(config);
  Randomize(*module);
  const at::Tensor tokens = Tokens(1, 6);
  at::Tensor changed = tokens.clone();
  changed[0][1] = (tokens[0][1] + 1).remainder(32);

  const at::Tensor before = Logits(*module, tokens);
  const at::Tensor after = Logits(*module, changed);

  EXPECT_FALSE(at::allclose(before[0][3], after[0][3]));
  EXPECT_TRUE(at::equal(before.narrow(1, 4, 2), after.narrow(1, 4, 2)));
}

TEST(DecoderModuleTest, EqualExpertsAreOneDenseMlp) {
  for (const auto routing : {MoeMlp::SOFTMAX_TOP_K_NORMALIZED, MoeMlp::SOFTMAX_TOP_K}) {
    DecoderConfig config = TinyConfig();
    const auto dense = Make(config);
    Randomize(*dense);
    MoeMlp& moe = MakeMoe(config, 4);
    moe.mutable_expert()->set_add_linear_biases(false);
    moe.set_routing(routing);
    // Weights that are not normalised sum to 1 only over all experts.
    moe.set_experts_per_token(routing == MoeMlp::SOFTMAX_TOP_K ? 4 : 2);
    const auto mixture = Make(config);
    Randomize(*mixture);
    {
      const c10::NoGradGuard no_grad;
      for (const auto& [name, parameter] : mixture->parameters()) {
        if (!absl::StrContains(name, "router")) {
          parameter.copy_(Get(*dense, name));
        }
      }
    }

    EXPECT_TRUE(at::allclose(Logits(*mixture, Tokens(2, 5)), Logits(*dense, Tokens(2, 5)), 1e-4, 1e-4)) << routing;
  }
}

TEST(DecoderModuleTest, KeyBiasAloneIsAZeroValueBias) {
  DecoderConfig config = TinyConfig();
  AttentionOf(config).set_key_bias(true);
  const auto key_only = Make(config);
  Randomize(*key_only);
  AttentionOf(config).set_value_bias(true);
  const auto both = Make(config);
  {
    const c10::NoGradGuard no_grad;
    for (const auto& [name, parameter] : both->parameters()) {
      parameter.zero_();
      parameter.narrow(0, 0, Get(*key_only, name).size(0)).copy_(Get(*key_only, name));
    }
  }

  EXPECT_TRUE(at::allclose(Logits(*key_only, Tokens(1, 5)), Logits(*both, Tokens(1, 5)), 1e-5, 1e-5));
}

TEST(DecoderModuleTest, StochasticMixerRunsTheMainOne) {
  DecoderConfig config = TinyConfig();
  const auto plain = Make(config);
  Randomize(*plain);
  Mixer& mixer = *config.mutable_decoder()->mutable_fixed()->mutable_mixer();
  const Mixer attention = mixer;
  (*mixer.mutable_stochastic()->mutable_mixers())["a"] = attention;
  (*mixer.mutable_stochastic()->mutable_mixers())["b"] = attention;
  mixer.mutable_stochastic()->set_main_mixer_name("b");
  const auto stochastic = Make(config);
  Randomize(*stochastic);
  {
    const c10::NoGradGuard no_grad;
    for (const auto& [name, parameter] : stochastic->parameters()) {
      if (!absl::StrContains(name, "mixers.a.")) {
        parameter.copy_(Get(
            *plain, absl::StrContains(name, "mixers.b.") ? std::string(name).erase(name.find("mixers.b."), 9) : name));
      }
    }
  }

  EXPECT_TRUE(at::equal(Logits(*stochastic, Tokens(1, 5)), Logits(*plain, Tokens(1, 5))));
}

TEST(DecoderModuleTest, HeadScalesAndCapsLogits) {
  DecoderConfig config = TinyConfig();
  const auto plain = Make(config);
  Randomize(*plain);
  const at::Tensor logits = Logits(*plain, Tokens(1, 5));
  config.mutable_head()->set_logits_scale_factor(0.5);
  const auto scaled = Make(config);
  Randomize(*scaled);
  config.mutable_head()->set_logits_scale_factor(1);
  config.mutable_head()->set_final_logit_softcap(3);
  const auto capped = Make(config);
  Randomize(*capped);

  EXPECT_TRUE(at::allclose(Logits(*scaled, Tokens(1, 5)), logits * 0.5));
  EXPECT_TRUE(at::allclose(Logits(*capped, Tokens(1, 5)), at::tanh(logits / 3) * 3));
}

TEST(DecoderModuleTest, ZeroCentredNormsStoreWeightMinusOne) {
  DecoderConfig config = TinyConfig();
  const auto plain = Make(config);
  Randomize(*plain);
  config.mutable_decoder()->mutable_fixed()->mutable_normalization()->set_zero_centered(true);
  config.mutable_head()->mutable_normalization()->set_zero_centered(true);
  const auto centred = Make(config);
  EXPECT_TRUE(at::equal(Get(*centred, "head.final_norm.weight"), at::zeros({16})));
  {
    const c10::NoGradGuard no_grad;
    for (const auto& [name, parameter] : centred->parameters()) {
      parameter.copy_(Get(*plain, name) - (absl::StrContains(name, "norm") ? 1.0 : 0.0));
    }
  }

  EXPECT_TRUE(at::allclose(Logits(*centred, Tokens(1, 5)), Logits(*plain, Tokens(1, 5)), 1e-4, 1e-4));
}

TEST(DecoderModuleTest, GradientsAgreeWithDifferences) {
  DecoderConfig config = TinyConfig();
  Block& block = *config.mutable_decoder()->mutable_fixed();
  *AttentionOf(config).mutable_query_norm() = block.normalization();
  block.mutable_pre_mlp_normalization()->set_kind(Normalization::LAYER_NORM);
  block.mutable_pre_mlp_normalization()->set_epsilon(1e-5);
  block.set_output_scale(true);
  AttentionOf(config).set_add_linear_biases(true);
  MakeMoe(config, 3).mutable_expert()->set_add_linear_biases(true);
  const auto module = Make(config, at::kDouble);
  Randomize(*module);
  const at::Tensor tokens = Tokens(2, 4);
  const at::Tensor direction = at::sin(at::arange(2 * 4 * 32, at::kDouble)).view({2, 4, 32});
  const auto loss = [&] { return at::sum(Logits(*module, tokens) * direction); };
  loss().backward();

  const c10::NoGradGuard no_grad;
  for (const auto& [name, parameter] : module->parameters()) {
    ASSERT_TRUE(parameter.grad().defined()) << name;
    const at::Tensor flat = parameter.view({-1});
    const int64_t index = flat.size(0) / 2;
    const double step = 1e-6;
    flat[index] += step;
    const double above = loss().item<double>();
    flat[index] -= 2 * step;
    const double below = loss().item<double>();
    flat[index] += step;

    const double gradient = parameter.grad().view({-1})[index].item<double>();
    EXPECT_NEAR(gradient, (above - below) / (2 * step), 1e-5 + 1e-5 * std::abs(gradient)) << name;
  }
}

TEST(DecoderModuleTest, ForwardRefusesWrongInput) {
  const auto module = Make(TinyConfig());

  EXPECT_THAT(module->Forward(at::zeros({1, 3})), IsKind(ErrorKind::kRequest, HasSubstr("int64")));
  EXPECT_THAT(module->Forward(at::zeros({3}, at::kLong)), IsKind(ErrorKind::kRequest, HasSubstr("rank 1")));
  EXPECT_THAT(module->Forward(at::tensor({1, 2, -1, 32}, at::kLong).view({2, 2})),
              IsKind(ErrorKind::kRequest, HasSubstr("input_ids[1, 0] is -1, the vocabulary has 32 tokens")));
}

TEST(DecoderModuleTest, ForwardRefusesMorePositionsThanAreLearned) {
  DecoderConfig config = TinyConfig();
  config.mutable_embeddings()->set_num_position_embeddings(4);

  EXPECT_THAT(Make(config)->Forward(Tokens(1, 4)), IsOk());
  EXPECT_THAT(Make(config)->Forward(Tokens(1, 5)), IsKind(ErrorKind::kRequest, HasSubstr("4 positions")));
}

TEST(CheckComputableTest, NamesAllPartsTogether) {
  DecoderConfig config = TinyConfig();
  AttentionOf(config).mutable_rotary()->mutable_proportional()->set_partial_rotary_factor(0.5);
  AttentionOf(config).set_shared_key_value(true);
  AttentionOf(config).set_causal(false);
  AttentionOf(config).set_window_size(4);
  AttentionOf(config).mutable_value_norm()->set_kind(Normalization::GATED_RMS_NORM);
  AttentionOf(config).mutable_value_norm()->set_epsilon(1e-5);
  MoeMlp& moe = MakeMoe(config, 4);
  moe.set_shared_experts(1);
  moe.set_router_input_scale(2);
  *moe.mutable_expert()->mutable_pre_norm() = config.head().normalization();
  config.mutable_embeddings()->set_num_position_embeddings(4);
  config.mutable_embeddings()->set_embedding_scale(4);
  config.mutable_head()->set_final_logit_softcap(4);
  config.mutable_head()->set_logits_scale_factor(4);

  const auto module = DecoderModule::Create(config, at::kFloat);

  EXPECT_THAT(module, IsKind(ErrorKind::kUnsupported,
                             AllOf(HasSubstr("9 parts"), HasSubstr("decoder.fixed.mixer.attention.rotary.proportional"),
                                   HasSubstr("attention.shared_key_value"), HasSubstr("attention.window_size"),
                                   HasSubstr("attention.value_norm.kind is GATED_RMS_NORM"),
                                   HasSubstr("decoder.fixed.mlp.moe.shared_experts is 1"),
                                   HasSubstr("router_input_scale is 2"), HasSubstr("moe.expert.pre_norm"))));
}

TEST(DecoderModuleTest, CreateRefusesOtherDtypes) {
  EXPECT_THAT(DecoderModule::Create(TinyConfig(), at::kLong), IsKind(ErrorKind::kRequest, HasSubstr("Long")));
}

TEST(DecoderModuleTest, CreateReportsMissingMemory) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers end the program when an allocation fails";
#endif
  DecoderConfig config = TinyConfig();
  config.set_hidden_size(int64_t{1} << 28);
  config.set_vocab_size(int64_t{1} << 26);

  EXPECT_THAT(DecoderModule::Create(config, at::kFloat), IsKind(ErrorKind::kNoMemory, HasSubstr("parameters")));
}

TEST(CheckComputableTest, InvalidConfigIsAConfigError) {
  EXPECT_THAT(DecoderModule::CheckComputable(DecoderConfig()), IsKind(ErrorKind::kConfig));
}

TEST(CheckTrainableTest, NamesWhatForwardLeavesOut) {
  DecoderConfig config = TinyConfig();
  AttentionOf(config).set_dropout(0.1);
  config.mutable_decoder()->mutable_fixed()->set_dropout(0.2);
  config.mutable_head()->set_prediction_heads(2);
  MakeMoe(config, 4).set_auxiliary_loss_coefficient(0.01);

  EXPECT_THAT(DecoderModule::CheckComputable(config), IsOk());
  EXPECT_THAT(
      DecoderModule::CheckTrainable(config),
      IsKind(ErrorKind::kUnsupported,
             AllOf(HasSubstr("4 parts"), HasSubstr("attention.dropout is 0.1"), HasSubstr("fixed.dropout is 0.2"),
                   HasSubstr("prediction_heads is 2"), HasSubstr("auxiliary_loss_coefficient is 0.01"))));
  EXPECT_THAT(DecoderModule::CheckTrainable(TinyConfig()), IsOk());
}

}  // namespace
}  // namespace waypoint::models
