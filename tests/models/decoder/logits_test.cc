// Logits against those that transformers computed (tests/testdata/fixtures/README.md).
#include <string>

#include "ATen/ATen.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/models/decoder/fixture_model.h"

namespace waypoint::models {
namespace {

class LogitsTest : public testing::TestWithParam<const char*> {};

TEST_P(LogitsTest, AgreeWithTheReferenceImplementation) {
  const Fixture fixture = ReadFixture(absl::StrCat("tests/testdata/fixtures/", GetParam()));
  const auto module = LoadModule(fixture, at::kFloat);

  const auto logits = module->Forward(fixture.input_ids);

  ASSERT_TRUE(logits.ok()) << logits.status();
  ASSERT_EQ(logits->sizes(), fixture.logits.sizes());
  const double difference = at::max(at::abs(*logits - fixture.logits)).item<double>();
  RecordProperty("max_abs_diff", absl::StrCat(difference));
  EXPECT_LE(difference, 1e-4);
}

INSTANTIATE_TEST_SUITE_P(Fixtures, LogitsTest,
                         testing::Values("llama2_fp32", "llama31_fp32", "llama31_v5_bf16", "llama32_tied_bf16",
                                         "llama3_bf16_sharded"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace waypoint::models
