// The module, its gradients and the optimizer together.
#include <cmath>
#include <string>
#include <vector>

#include "ATen/ATen.h"
#include "gtest/gtest.h"
#include "models/decoder/decoder_module.h"
#include "optimizer/adamw.h"
#include "optimizer/clip.h"
#include "tests/models/decoder/tiny_config.h"
#include "tests/testing/status_matchers.h"

namespace waypoint::models {
namespace {

std::vector<double> Train(const DecoderConfig& config, at::ScalarType dtype, int steps) {
  auto module = DecoderModule::Create(config, dtype);
  EXPECT_THAT(module, IsOk());
  (*module)->Initialize(3);
  auto optimizer = AdamW::Create((*module)->parameters(), {});
  EXPECT_THAT(optimizer, IsOk());
  const at::Tensor tokens = (at::arange(4 * 9, at::kLong) * 5).remainder(32).view({4, 9});

  std::vector<double> losses;
  for (int i = 0; i < steps; ++i) {
    const auto logits = (*module)->Forward(tokens.narrow(1, 0, 8));
    EXPECT_THAT(logits, IsOk());
    const at::Tensor loss =
        at::cross_entropy_loss(logits->to(at::kFloat).reshape({-1, 32}), tokens.narrow(1, 1, 8).reshape({-1}));
    loss.backward();
    EXPECT_THAT(ClipGradientNorm((*module)->parameters(), 1.0), IsOk());
    EXPECT_THAT((*optimizer)->Step(0.01), IsOk());
    (*optimizer)->ZeroGradients();
    losses.push_back(loss.item<double>());
  }
  return losses;
}

struct Case {
  const char* name;
  at::ScalarType dtype;
  bool moe;
};

class TrainingTest : public testing::TestWithParam<Case> {};

TEST_P(TrainingTest, LossFallsAndRepeatsBitForBit) {
  DecoderConfig config = TinyConfig();
  if (GetParam().moe) {
    MakeMoe(config, 4);
  }

  const std::vector<double> losses = Train(config, GetParam().dtype, 30);

  EXPECT_NEAR(losses.front(), std::log(32.0), 0.2);
  EXPECT_LT(losses.back(), 0.5 * losses.front());
  EXPECT_EQ(Train(config, GetParam().dtype, 30), losses);
}

INSTANTIATE_TEST_SUITE_P(Dtypes, TrainingTest,
                         testing::Values(Case{"float32", at::kFloat, false}, Case{"bfloat16", at::kBFloat16, false},
                                         Case{"moe_float32", at::kFloat, true},
                                         Case{"moe_bfloat16", at::kBFloat16, true}),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace waypoint::models
