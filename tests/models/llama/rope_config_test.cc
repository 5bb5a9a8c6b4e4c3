// Rotary embeddings in config.json, through the Llama conversion.
#include "models/llama/rope_config.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/llama/llama_config.h"
#include "tests/testing/status_matchers.h"

namespace waypoint::models {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

// A small config with these further members.
Json Config(const std::string& members) {
  return Json::parse(absl::StrCat(
      R"({"model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
          "num_attention_heads": 2, "vocab_size": 16, "max_position_embeddings": 4096)",
      members.empty() ? "" : ", ", members, "}"));
}

absl::StatusOr<Rotary> Import(const std::string& members) {
  const absl::StatusOr<ImportedConfig> imported = ImportLlamaConfig(Config(members), false);
  if (!imported.ok()) {
    return imported.status();
  }
  return imported->config.decoder().fixed().mixer().attention().rotary();
}

std::string RoundTrip(const std::string& members) {
  const Json original = Config(members);
  const absl::StatusOr<ImportedConfig> imported = ImportLlamaConfig(original, false);
  if (!imported.ok()) {
    return std::string(imported.status().message());
  }
  const absl::StatusOr<Json> again = ExportLlamaConfig(imported->config, &original, {});
  return again.ok() ? again->dump() : std::string(again.status().message());
}

TEST(RopeConfigTest, BothLayoutsGiveTheSameRotary) {
  const struct {
    const char* flat;
    const char* parameters;
  } kCases[] = {
      {R"("rope_theta": 500000.0)", R"("rope_parameters": {"rope_type": "default", "rope_theta": 500000.0})"},
      {R"("rope_scaling": {"type": "linear", "factor": 2.0})",
       R"("rope_parameters": {"rope_type": "linear", "factor": 2, "rope_theta": 10000})"},
      {R"("rope_scaling": {"rope_type": "dynamic", "factor": 2.0}, "rope_theta": 1e6)",
       R"("rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1000000})"},
      {R"("rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 512}, "rope_theta": 5e5)",
       R"("rope_parameters": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
           "original_max_position_embeddings": 512, "rope_theta": 500000})"},
      {R"("rope_scaling": {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 512})",
       R"("rope_parameters": {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 512,
           "beta_fast": 32, "beta_slow": 1.0, "rope_theta": 10000, "truncate": true})"},
  };
  for (const auto& test_case : kCases) {
    ASSERT_OK_AND_ASSIGN(const Rotary flat, Import(test_case.flat));
    ASSERT_OK_AND_ASSIGN(const Rotary parameters, Import(test_case.parameters));
    EXPECT_EQ(flat.DebugString(), parameters.DebugString());
    EXPECT_EQ(RoundTrip(test_case.flat), Config(test_case.flat).dump());
    EXPECT_EQ(RoundTrip(test_case.parameters), Config(test_case.parameters).dump());
  }
}

TEST(RopeConfigTest, YarnDefaults) {
  ASSERT_OK_AND_ASSIGN(const Rotary rotary, Import(R"("rope_scaling": {"rope_type": "yarn", "factor": 4.0})"));

  EXPECT_EQ(rotary.yarn().scale_factor(), 4.0);
  EXPECT_EQ(rotary.yarn().original_context_length(), 4096);
  EXPECT_EQ(rotary.yarn().beta_fast(), 32.0);
  EXPECT_EQ(rotary.yarn().beta_slow(), 1.0);
  EXPECT_TRUE(rotary.yarn().truncate());
  EXPECT_FALSE(rotary.yarn().has_attention_factor());
  EXPECT_FALSE(rotary.yarn().has_mscale());
}

TEST(RopeConfigTest, YarnReadsAllItsParameters) {
  ASSERT_OK_AND_ASSIGN(const Rotary rotary,
                       Import(R"("rope_parameters": {"rope_type": "yarn", "factor": null, "rope_theta": 1e4,
                           "original_max_position_embeddings": 1024, "attention_factor": 0.9, "beta_fast": 0,
                           "beta_slow": 2, "mscale": 0.7, "mscale_all_dim": 1.0, "truncate": false})"));

  EXPECT_EQ(rotary.yarn().scale_factor(), 4.0);
  EXPECT_EQ(rotary.yarn().attention_factor(), 0.9);
  EXPECT_EQ(rotary.yarn().beta_fast(), 32.0);
  EXPECT_EQ(rotary.yarn().beta_slow(), 2.0);
  EXPECT_EQ(rotary.yarn().mscale(), 0.7);
  EXPECT_EQ(rotary.yarn().mscale_all_dim(), 1.0);
  EXPECT_FALSE(rotary.yarn().truncate());
}

TEST(RopeConfigTest, YarnFactorThatIsNotTheRatioIsNoted) {
  ASSERT_OK_AND_ASSIGN(const ImportedConfig imported,
                       ImportLlamaConfig(Config(R"("rope_scaling": {"rope_type": "yarn", "factor": 3.0,
                                             "original_max_position_embeddings": 1024})"),
                                         false));

  EXPECT_THAT(imported.notes, Contains(HasSubstr("\"rope_scaling.factor\" is 3")));
}

TEST(RopeConfigTest, MissingOriginalLengthIsMaxPositions) {
  ASSERT_OK_AND_ASSIGN(const Rotary llama3,
                       Import(R"("rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                           "high_freq_factor": 4.0})"));
  ASSERT_OK_AND_ASSIGN(const Rotary dynamic, Import(R"("rope_scaling": {"rope_type": "dynamic", "factor": 2.0})"));

  EXPECT_EQ(llama3.llama3().original_context_length(), 4096);
  EXPECT_EQ(dynamic.dynamic().original_context_length(), 4096);
}

TEST(RopeConfigTest, EmptyAndDefaultMeanNoScaling) {
  for (const char* members : {"", R"("rope_scaling": {})", R"("rope_scaling": {"rope_type": "default"})",
                              R"("rope_parameters": {}, "rope_theta": 10000)",
                              R"("rope_parameters": {"rope_type": "default", "partial_rotary_factor": 1.0})"}) {
    ASSERT_OK_AND_ASSIGN(const Rotary rotary, Import(members));
    EXPECT_TRUE(rotary.has_standard()) << members;
    EXPECT_EQ(rotary.theta(), 10000.0);
    EXPECT_EQ(RoundTrip(members), Config(members).dump());
  }
}

TEST(RopeConfigTest, OtherTypesAreUnsupportedByName) {
  for (const char* type : {"longrope", "mrope", "su"}) {
    EXPECT_THAT(Import(absl::StrCat(R"("rope_scaling": {"type": ")", type, R"(", "long_factor": [1, 2]})")),
                IsKind(ErrorKind::kUnsupported, HasSubstr(absl::StrCat("is \"", type, "\""))));
  }
  EXPECT_THAT(Import(R"("rope_scaling": {"type": 5})"), IsKind(ErrorKind::kConfig));
}

TEST(RopeConfigTest, ParametersOfOtherTypesAreUnknownKeys) {
  EXPECT_THAT(Import(R"("rope_scaling": {"type": "linear", "factor": 2.0, "beta_fast": 32})"),
              IsKind(ErrorKind::kConfig, HasSubstr("\"rope_scaling.beta_fast\" = 32")));
  EXPECT_THAT(Import(R"("rope_scaling": {"factor": 2.0})"),
              IsKind(ErrorKind::kConfig, HasSubstr("\"rope_scaling.factor\" = 2.0")));
}

TEST(RopeConfigTest, MissingAndWrongParametersAreNamed) {
  EXPECT_THAT(Import(R"("rope_scaling": {"rope_type": "llama3", "factor": "8"})"),
              IsKind(ErrorKind::kConfig, ::testing::AllOf(HasSubstr("\"rope_scaling.factor\" is \"8\""),
                                                          HasSubstr("\"rope_scaling.low_freq_factor\" is missing"),
                                                          HasSubstr("\"rope_scaling.high_freq_factor\" is missing"))));
  EXPECT_THAT(Import(R"("rope_scaling": {"rope_type": "dynamic", "factor": 2.0}, "max_position_embeddings": "x")"),
              IsKind(ErrorKind::kConfig, HasSubstr("\"max_position_embeddings\" is \"x\"")));
}

TEST(RopeConfigTest, MaxPositionsMustBePositiveEvenUnused) {
  for (const char* value : {"0", "-1", "1.5", "\"2048\"", "[2048]", "true", "9223372036854775808"}) {
    EXPECT_THAT(Import(absl::StrCat("\"max_position_embeddings\": ", value)),
                IsKind(ErrorKind::kConfig, HasSubstr("\"max_position_embeddings\" is")))
        << value;
  }
  EXPECT_OK(Import("\"max_position_embeddings\": null"));
}

TEST(RopeConfigTest, ContradictionsAreRefused) {
  EXPECT_THAT(Import(R"("rope_scaling": {"rope_type": "linear", "type": "dynamic", "factor": 2.0})"),
              IsKind(ErrorKind::kConfig, HasSubstr("remove the wrong one")));
  EXPECT_THAT(Import(R"("rope_theta": 1.5e4, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4})"),
              IsKind(ErrorKind::kConfig, HasSubstr("\"rope_theta\" is 15000.0")));
  EXPECT_THAT(Import(R"("rope_scaling": {"rope_type": "linear", "factor": 2.0},
                        "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4})"),
              IsKind(ErrorKind::kConfig, HasSubstr("different rotary embeddings")));
  EXPECT_OK(Import(R"("rope_scaling": {"rope_type": "linear", "factor": 4.0},
                      "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 2e4})"));
}

TEST(RopeConfigTest, PartialRotationIsUnsupported) {
  EXPECT_THAT(Import(R"("rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5})"),
              IsKind(ErrorKind::kUnsupported, HasSubstr("partial_rotary_factor")));
  EXPECT_THAT(Import(R"("partial_rotary_factor": 0.5)"), IsKind(ErrorKind::kUnsupported));
  EXPECT_OK(Import(R"("partial_rotary_factor": 1)"));
}

}  // namespace
}  // namespace waypoint::models
