// Directories that try to make the format look elsewhere, before anything of them is loaded.
#include "models/llama/llama_format.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_directory.h"

namespace waypoint::models {
namespace {

using ::testing::HasSubstr;

constexpr char kConfig[] = R"({"model_type": "llama"})";

class LlamaProbeTest : public ::testing::Test {
 protected:
  absl::StatusOr<bool> Probe() { return NewLlamaFormat()->Probe(PosixFileSystem(), directory_.Path("model")); }

  LlamaProbeTest() { directory_.MakeDirectory("model"); }

  const TempDirectory directory_;
};

TEST_F(LlamaProbeTest, ModelTypeDecides) {
  EXPECT_EQ(Probe().value(), false);
  directory_.Write("model/config.json", R"({"model_type": "bert"})");
  EXPECT_EQ(Probe().value(), false);
  directory_.Write("model/config.json", kConfig);
  EXPECT_EQ(Probe().value(), true);
}

TEST_F(LlamaProbeTest, LinksAreNotFollowedOutOfTheDirectory) {
  directory_.Write("outside.json", kConfig);
  directory_.Link("../outside.json", "model/config.json");
  EXPECT_THAT(Probe(), IsKind(ErrorKind::kPath, HasSubstr("outside of the directory")));
  directory_.Link("/etc/passwd", "model/config.json");
  EXPECT_THAT(Probe(), IsKind(ErrorKind::kPath, HasSubstr("config.json")));

  directory_.Write("model/real.json", kConfig);
  directory_.Link("real.json", "model/config.json");
  EXPECT_EQ(Probe().value(), true);
}

TEST_F(LlamaProbeTest, WhatCannotBeReadIsAnErrorAndNotAnotherFormat) {
  directory_.Link("nowhere", "model/config.json");
  EXPECT_THAT(Probe(), IsKind(ErrorKind::kIo, HasSubstr("config.json")));
  directory_.Fifo("model/config.json");
  EXPECT_THAT(Probe(), IsKind(ErrorKind::kIo, HasSubstr("config.json")));
  directory_.Write("model/config.json", "[]");
  EXPECT_THAT(Probe(), IsKind(ErrorKind::kSchema, HasSubstr("config.json")));
}

}  // namespace
}  // namespace waypoint::models
