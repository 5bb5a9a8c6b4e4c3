#include "optimizer/adamw.h"

#include <fstream>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "ATen/ATen.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/testing/status_matchers.h"

namespace waypoint {
namespace {

using testing::AllOf;
using testing::HasSubstr;

// adamw_golden.py has the same two functions.
double LearningRate(int step) { return 0.01 * (1 + step % 5); }

at::Tensor Gradient(int step, int row) {
  std::vector<float> values;
  for (int i = 0; i < 6; ++i) {
    values.push_back(static_cast<float>((step * 37 + row * 11 + i * 29) % 257 - 128) / 64);
  }
  return at::tensor(values);
}

at::Tensor Parameter(const at::Tensor& values) {
  at::Tensor parameter = values.clone();
  parameter.set_requires_grad(true);
  return parameter;
}

at::Tensor Matrix() { return at::tensor({0.5f, -1.25f, 2.0f, 0.03125f, -0.75f, 1.5f}).view({2, 3}); }
at::Tensor Vector() { return at::tensor({1.0f, 0.5f, -0.5f, 0.25f, 2.0f, -3.0f}); }

std::unique_ptr<AdamW> Make(const NamedTensors& parameters, const AdamWOptions& options = {}) {
  auto optimizer = AdamW::Create(parameters, options);
  EXPECT_THAT(optimizer, IsOk());
  return *std::move(optimizer);
}

void Steps(AdamW& optimizer, const NamedTensors& parameters, int begin, int end) {
  for (int step = begin; step < end; ++step) {
    for (size_t row = 0; row < parameters.size(); ++row) {
      const at::Tensor& parameter = parameters[row].second;
      parameter.mutable_grad() =
          Gradient(step, static_cast<int>(row)).view(parameter.sizes()).to(parameter.scalar_type());
    }
    EXPECT_THAT(optimizer.Step(LearningRate(step)), IsOk());
  }
}

AdamWOptions GoldenOptions() {
  AdamWOptions options;
  options.beta2 = 0.95;
  options.weight_decay = 0.1;
  return options;
}

TEST(AdamWTest, TwentyStepsAgreeWithPyTorch) {
  const NamedTensors parameters = {{"matrix", Parameter(Matrix())}, {"vector", Parameter(Vector())}};
  const auto optimizer = Make(parameters, GoldenOptions());

  Steps(*optimizer, parameters, 0, 20);

  NamedTensors all = optimizer->State();
  all.insert(all.end(), parameters.begin(), parameters.end());
  std::ifstream file("tests/optimizer/adamw_golden.json");
  const auto golden = nlohmann::json::parse(file);
  ASSERT_EQ(all.size(), golden.size());
  for (const auto& [name, tensor] : all) {
    const at::Tensor expected = at::tensor(golden.at(name).get<std::vector<float>>()).view(tensor.sizes());
    EXPECT_TRUE(at::allclose(tensor, expected, 1e-6, 1e-7)) << name << tensor << expected;
  }
}

TEST(AdamWTest, MastersOf16BitParametersFollowFloat32) {
  const NamedTensors narrow = {{"m", Parameter(Matrix().to(at::kBFloat16))}};
  const NamedTensors wide = {{"m", Parameter(Matrix())}};
  const auto narrow_optimizer = Make(narrow);
  const auto wide_optimizer = Make(wide);

  Steps(*narrow_optimizer, narrow, 0, 20);
  Steps(*wide_optimizer, wide, 0, 20);

  // The gradients are exact in bfloat16, so the masters are what float32 training gives.
  const NamedTensors state = narrow_optimizer->State();
  ASSERT_EQ(state.size(), 3);
  EXPECT_EQ(state[2].first, "m/master");
  EXPECT_TRUE(at::equal(state[2].second, wide[0].second));
  EXPECT_TRUE(at::equal(narrow[0].second, wide[0].second.to(at::kBFloat16)));
}

TEST(AdamWTest, ContinuesFromSavedStateBitForBit) {
  const NamedTensors whole = {{"m", Parameter(Matrix().to(at::kBFloat16))}};
  const auto uninterrupted = Make(whole);
  Steps(*uninterrupted, whole, 0, 10);

  const NamedTensors first = {{"m", Parameter(Matrix().to(at::kBFloat16))}};
  const auto before = Make(first);
  Steps(*before, first, 0, 5);
  const NamedTensors second = {{"m", Parameter(first[0].second.detach())}};
  const auto after = Make(second);
  const NamedTensors from = before->State();
  const NamedTensors to = after->State();
  for (size_t i = 0; i < from.size(); ++i) {
    ASSERT_EQ(from[i].first, to[i].first);
    to[i].second.copy_(from[i].second);
  }
  after->set_step(before->step());
  Steps(*after, second, 5, 10);

  EXPECT_EQ(after->step(), 10);
  EXPECT_TRUE(at::equal(second[0].second, whole[0].second));
  EXPECT_TRUE(at::equal(after->State()[2].second, uninterrupted->State()[2].second));
}

// Its moments are zero, whatever the others have done before: counted by their steps, the first updates would be wrong.
TEST(AdamWTest, AParameterThatBeginsLaterIsCorrectedByItsOwnUpdates) {
  const NamedTensors alone = {{"late", Parameter(Matrix().to(at::kBFloat16))}};
  const auto alone_optimizer = Make(alone, GoldenOptions());
  Steps(*alone_optimizer, alone, 0, 5);

  const NamedTensors both = {{"late", Parameter(Matrix().to(at::kBFloat16))}, {"early", Parameter(Vector())}};
  const auto optimizer = Make(both, GoldenOptions());
  optimizer->set_step(1000);
  optimizer->set_begins({{"late", 1000}, {"of another rank", 3}});
  Steps(*optimizer, both, 0, 5);

  EXPECT_EQ(optimizer->step(), 1005);
  EXPECT_TRUE(at::equal(both[0].second, alone[0].second));
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(optimizer->State()[i].first, alone_optimizer->State()[i].first);
    EXPECT_TRUE(at::equal(optimizer->State()[i].second, alone_optimizer->State()[i].second));
  }
}

TEST(AdamWTest, OneMasterIsResetAlone) {
  const NamedTensors parameters = {{"a", Parameter(Matrix().to(at::kBFloat16))},
                                   {"b", Parameter(Matrix().to(at::kBFloat16))}};
  const auto optimizer = Make(parameters);
  for (const auto& [name, parameter] : parameters) {
    parameter.detach().fill_(3);
  }

  optimizer->ResetMaster("b");
  optimizer->ResetMaster("of another rank");

  EXPECT_TRUE(at::equal(optimizer->State()[2].second, Matrix()));
  EXPECT_TRUE(at::equal(optimizer->State()[5].second, at::full({2, 3}, 3.0f)));
}

TEST(AdamWTest, PartsOfAParameterAreUpdatedAsTheWhole) {
  const NamedTensors whole = {{"m", Parameter(Matrix())}};
  const auto whole_optimizer = Make(whole);
  const NamedTensors half = {{"m", Parameter(Matrix().narrow(0, 1, 1))}};
  const auto half_optimizer = Make(half);

  for (int step = 0; step < 5; ++step) {
    whole[0].second.mutable_grad() = Gradient(step, 0).view({2, 3});
    half[0].second.mutable_grad() = Gradient(step, 0).view({2, 3}).narrow(0, 1, 1);
    ASSERT_THAT(whole_optimizer->Step(0.01), IsOk());
    ASSERT_THAT(half_optimizer->Step(0.01), IsOk());
  }

  EXPECT_TRUE(at::equal(half[0].second, whole[0].second.narrow(0, 1, 1)));
}

TEST(AdamWTest, VectorsDecayOnlyWhenAsked) {
  for (const bool decay : {false, true}) {
    const NamedTensors parameters = {{"v", Parameter(Vector())}};
    AdamWOptions options;
    options.weight_decay = 0.5;
    options.decay_vectors = decay;
    const auto optimizer = Make(parameters, options);
    parameters[0].second.mutable_grad() = at::zeros({6});

    ASSERT_THAT(optimizer->Step(0.1), IsOk());

    EXPECT_TRUE(at::allclose(parameters[0].second, Vector() * (decay ? 0.95 : 1.0)));
  }
}

TEST(AdamWTest, FrozenParametersHaveNoState) {
  const NamedTensors parameters = {{"frozen", Matrix()}, {"v", Parameter(Vector())}};
  const auto optimizer = Make(parameters);
  parameters[1].second.mutable_grad() = at::ones({6});

  ASSERT_THAT(optimizer->Step(0.1), IsOk());

  EXPECT_EQ(optimizer->State().front().first, "v/exp_avg");
  EXPECT_TRUE(at::equal(parameters[0].second, Matrix()));
}

TEST(AdamWTest, MastersAndParametersCanBeResetFromEachOther) {
  const NamedTensors parameters = {{"m", Parameter(Matrix().to(at::kBFloat16))}};
  const auto optimizer = Make(parameters);
  const at::Tensor master = optimizer->State()[2].second;
  EXPECT_TRUE(at::equal(master, Matrix()));

  master.fill_(1.001);
  ASSERT_OK(optimizer->ResetParameters());
  EXPECT_TRUE(at::equal(parameters[0].second.detach(), at::ones({2, 3}, at::kBFloat16)));
  optimizer->ResetMasters();
  EXPECT_TRUE(at::equal(master, at::ones({2, 3})));
}

TEST(AdamWTest, StepRefusesMissingGradientsAndBadRates) {
  const NamedTensors parameters = {{"a", Parameter(Vector())}, {"b", Parameter(Vector())}};
  const auto optimizer = Make(parameters);

  EXPECT_THAT(optimizer->Step(0.1), IsKind(ErrorKind::kRequest, AllOf(HasSubstr("\"a\""), HasSubstr("\"b\""))));
  EXPECT_THAT(optimizer->Step(-1), IsKind(ErrorKind::kRequest, HasSubstr("learning rate is -1")));
  EXPECT_THAT(optimizer->Step(std::numeric_limits<double>::quiet_NaN()), IsKind(ErrorKind::kRequest));
  EXPECT_EQ(optimizer->step(), 0);
}

TEST(AdamWTest, CreateRefusesOptionsAndDtypes) {
  AdamWOptions options;
  options.beta2 = 1;

  EXPECT_THAT(AdamW::Create({}, options), IsKind(ErrorKind::kRequest, HasSubstr("beta2 is 1")));
  EXPECT_THAT(AdamW::Create({{"d", at::zeros({2}, at::kDouble)}}, {}),
              IsKind(ErrorKind::kRequest, HasSubstr("\"d\" is Double")));
}

}  // namespace
}  // namespace waypoint
