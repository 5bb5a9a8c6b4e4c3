#include "engine/metrics_log.h"

#include <cstdio>
#include <fstream>
#include <sstream>

#include "checkpoint/base/error.h"
#include "gtest/gtest.h"

namespace waypoint::engine {
namespace {

std::string Contents(const std::string& path) {
  std::ostringstream out;
  out << std::ifstream(path, std::ios::binary).rdbuf();
  return out.str();
}

std::string LogWith(const std::string& name, const std::string& contents) {
  const std::string path = ::testing::TempDir() + "/" + name;
  std::remove(path.c_str());
  if (!contents.empty()) {
    std::ofstream(path, std::ios::binary) << contents;
  }
  return path;
}

TEST(MetricsLogTest, AppendsOneLinePerStep) {
  const std::string path = LogWith("append", "");
  auto log = MetricsLog::Open(path, 0);
  ASSERT_TRUE(log.ok()) << log.status();

  ASSERT_TRUE((*log)->Append({1, 2.5, 0.5, 0.25, 64, 0.125}).ok());
  ASSERT_TRUE((*log)->Append({2, 2.25, 0.5, 0.25, 128, 0.125}).ok());
  ASSERT_TRUE((*log)->Sync().ok());

  EXPECT_EQ(Contents(path),
            "{\"step\":1,\"loss\":2.5,\"grad_norm\":0.5,\"lr\":0.25,\"tokens\":64,\"seconds\":0.125}\n"
            "{\"step\":2,\"loss\":2.25,\"grad_norm\":0.5,\"lr\":0.25,\"tokens\":128,\"seconds\":0.125}\n");
}

TEST(MetricsLogTest, LinesAfterTheResumedStepAreCut) {
  const std::string path = LogWith("resume", "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n");

  ASSERT_TRUE(MetricsLog::Open(path, 2).ok());

  EXPECT_EQ(Contents(path), "{\"step\":1}\n{\"step\":2}\n");
}

TEST(MetricsLogTest, TornLastLineIsCut) {
  const std::string torn = LogWith("torn", "{\"step\":1}\n{\"step\":2");
  const std::string unended = LogWith("unended", "{\"step\":1}\n{\"step\":2}");
  const std::string garbage = LogWith("garbage", "{\"step\":1}\n\n");

  ASSERT_TRUE(MetricsLog::Open(torn, 9).ok());
  ASSERT_TRUE(MetricsLog::Open(unended, 9).ok());
  ASSERT_TRUE(MetricsLog::Open(garbage, 9).ok());

  EXPECT_EQ(Contents(torn), "{\"step\":1}\n");
  EXPECT_EQ(Contents(unended), "{\"step\":1}\n");
  EXPECT_EQ(Contents(garbage), "{\"step\":1}\n");
}

TEST(MetricsLogTest, AFreshRunEmptiesTheLog) {
  const std::string path = LogWith("fresh", "{\"step\":1}\n");

  ASSERT_TRUE(MetricsLog::Open(path, 0).ok());

  EXPECT_EQ(Contents(path), "");
}

TEST(MetricsLogTest, MissingDirectoryIsAnIoError) {
  EXPECT_EQ(GetErrorKind(MetricsLog::Open(::testing::TempDir() + "/none/metrics", 0).status()), ErrorKind::kIo);
}

}  // namespace
}  // namespace waypoint::engine
