#include "optimizer/clip.h"

#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "ATen/ATen.h"
#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

std::pair<std::string, at::Tensor> WithGradient(const at::Tensor& gradient) {
  at::Tensor parameter = at::zeros(gradient.sizes(), gradient.options());
  parameter.set_requires_grad(true);
  parameter.mutable_grad() = gradient;
  return {"p", parameter};
}

TEST(ClipGradientNormTest, ScalesAllGradientsTogether) {
  const auto a = WithGradient(at::tensor({3.0f, 0.0f}));
  const auto b = WithGradient(at::tensor({-4.0f}));

  const auto norm = ClipGradientNorm({a, b}, 1.0);

  ASSERT_THAT(norm, IsOk());
  EXPECT_DOUBLE_EQ(*norm, 5.0);
  EXPECT_NEAR(a.second.grad()[0].item<double>(), 0.6, 1e-6);
  EXPECT_NEAR(b.second.grad()[0].item<double>(), -0.8, 1e-6);
}

TEST(ClipGradientNormTest, SmallGradientsStay) {
  const auto a = WithGradient(at::tensor({3.0f, 4.0f}));
  at::Tensor none = at::zeros({2});

  EXPECT_DOUBLE_EQ(*ClipGradientNorm({a, {"none", none}}, 5.0), 5.0);
  EXPECT_DOUBLE_EQ(*ClipGradientNorm({a}, kInfinity), 5.0);
  EXPECT_TRUE(at::equal(a.second.grad(), at::tensor({3.0f, 4.0f})));
}

TEST(ClipGradientNormTest, NormOf16BitGradientsIsComputedInFloat32) {
  // In bfloat16 the sum would stop at 256.
  const auto a = WithGradient(at::ones({10'000}, at::kBFloat16));

  EXPECT_NEAR(*ClipGradientNorm({a}, kInfinity), 100.0, 1e-3);
}

TEST(ClipGradientNormTest, NormThatIsNotFiniteChangesNothing) {
  const auto a = WithGradient(at::tensor({static_cast<float>(kInfinity), 4.0f}));

  EXPECT_TRUE(std::isinf(*ClipGradientNorm({a}, 1.0)));
  EXPECT_EQ(a.second.grad()[1].item<double>(), 4.0);
}

TEST(ClipGradientNormTest, RefusesAMaximumThatIsNotPositive) {
  EXPECT_THAT(ClipGradientNorm({}, 0), IsKind(ErrorKind::kRequest));
  EXPECT_THAT(ClipGradientNorm({}, std::nan("")), IsKind(ErrorKind::kRequest));
}

}  // namespace
}  // namespace waypoint
