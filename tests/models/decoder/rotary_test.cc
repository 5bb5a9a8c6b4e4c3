#include "models/decoder/rotary.h"

#include <cmath>
#include <fstream>
#include <vector>

#include "ATen/ATen.h"
#include "google/protobuf/text_format.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace waypoint::models {
namespace {

Rotary Parse(const std::string& text) {
  Rotary rotary;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &rotary)) << text;
  return rotary;
}

TEST(ComputeFrequenciesTest, AgreesWithThePapers) {
  std::ifstream file("tests/models/decoder/rotary_golden.json");
  const auto cases = nlohmann::json::parse(file);
  ASSERT_EQ(cases.size(), 10);
  for (const auto& golden : cases) {
    SCOPED_TRACE(golden["name"].get<std::string>());
    const auto expected = at::tensor(golden["inverse"].get<std::vector<double>>(), at::kDouble);

    const RotaryFrequencies result = ComputeFrequencies(Parse(golden["rotary"]), golden["head_size"], golden["length"]);

    ASSERT_EQ(result.inverse.scalar_type(), at::kFloat);
    EXPECT_TRUE(at::allclose(result.inverse.to(at::kDouble), expected, /*rtol=*/2e-6, /*atol=*/0))
        << result.inverse << expected;
    EXPECT_NEAR(result.attention_factor, golden["attention_factor"].get<double>(), 1e-12);
  }
}

TEST(ApplyRotaryTest, TurnsHalvesAgainstEachOther) {
  const RotaryTable table = ComputeTable(Parse("theta: 100 standard {}"), 4, 3, at::TensorOptions(at::kFloat));
  const at::Tensor x = at::tensor({1.0f, 0.0f, 0.0f, 2.0f}).expand({3, 4});

  const at::Tensor turned = ApplyRotary(x, table);

  // Position 2; frequencies 1 and 0.1.
  EXPECT_NEAR(turned[2][0].item<double>(), std::cos(2.0), 1e-6);
  EXPECT_NEAR(turned[2][2].item<double>(), std::sin(2.0), 1e-6);
  EXPECT_NEAR(turned[2][1].item<double>(), -2 * std::sin(0.2), 1e-6);
  EXPECT_NEAR(turned[2][3].item<double>(), 2 * std::cos(0.2), 1e-6);
  EXPECT_TRUE(at::equal(turned[0], x[0]));
}

TEST(ApplyRotaryTest, NoneLeavesTheInput) {
  const at::Tensor x = at::ones({3, 4});

  const at::Tensor turned = ApplyRotary(x, ComputeTable(Parse("none {}"), 4, 3, x.options()));

  EXPECT_TRUE(turned.is_same(x));
}

TEST(ComputeTableTest, YarnScalesCosinesAndSines) {
  const Rotary yarn = Parse(
      "theta: 10000 yarn { scale_factor: 8 attention_factor: 1.5 beta_fast: 32 beta_slow: 1 "
      "original_context_length: 4096 truncate: true }");

  const RotaryTable table = ComputeTable(yarn, 16, 4, at::TensorOptions(at::kFloat));

  EXPECT_TRUE(at::allclose(at::square(table.cos) + at::square(table.sin), at::full({4, 16}, 2.25)));
}

}  // namespace
}  // namespace waypoint::models
