#include "engine/metrics_log.h"

#include <cstdio>
#include <fstream>
#include <sstream>
#include <vector>

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

std::string Line(int64_t step) { return MetricsLine({step, 2.5, 0.5, 0.25, 64 * step, 0.125}) + "\n"; }

TEST(MetricsLogTest, LinesAfterTheResumedStepAreCut) {
  const std::string path = LogWith("resume", Line(1) + Line(2) + Line(3));

  ASSERT_TRUE(MetricsLog::Open(path, 2).ok());

  EXPECT_EQ(Contents(path), Line(1) + Line(2));
}

// A crash may leave blocks that were never written, too.
TEST(MetricsLogTest, TornLastLineIsCut) {
  const std::vector<std::string> ends = {"{\"step\":2", Line(2).substr(0, Line(2).size() - 1), "{",
                                         std::string(9, '\0')};
  for (const std::string& end : ends) {
    const std::string path = LogWith("torn", Line(1) + end);

    ASSERT_TRUE(MetricsLog::Open(path, 9).ok()) << end;

    EXPECT_EQ(Contents(path), Line(1)) << end;
  }
}

TEST(MetricsLogTest, AFreshRunEmptiesTheLog) {
  const std::string path = LogWith("fresh", Line(1));

  ASSERT_TRUE(MetricsLog::Open(path, 0).ok());

  EXPECT_EQ(Contents(path), "");
}

TEST(MetricsLogTest, LooksAtAHistoryWithoutChangingIt) {
  const std::string path = LogWith("look", Line(3) + Line(4) + "{\"st");

  const auto history = MetricsLog::Look(path);

  ASSERT_TRUE(history.ok()) << history.status();
  EXPECT_EQ(history->lines, 2);
  EXPECT_EQ(history->last_step, 4);
  EXPECT_EQ(Contents(path), Line(3) + Line(4) + "{\"st");
  EXPECT_EQ(MetricsLog::Look(::testing::TempDir() + "/nothing")->lines, 0);
}

TEST(MetricsLogTest, AFileThatIsNoHistoryIsRefusedAndStaysAsItIs) {
  const std::vector<std::string> foreign = {
      "notes of mine",
      "\n",
      "step,loss\n1,2.5\n",
      "{\"step\":1}\n",
      "[1]\n",
      Line(1) + "\n",
      Line(1) + "by hand\n" + Line(2),
      Line(2) + Line(2),
      Line(2) + Line(1),
      Line(0),
      Line(1) + std::string(9000, 'x'),
      "{\"step\":" + std::string(9000, '1'),
      std::string(5000, '\0') + "x",
  };
  for (const std::string& contents : foreign) {
    const std::string path = LogWith("foreign", contents);

    const absl::Status opened = MetricsLog::Open(path, 1).status();

    EXPECT_EQ(GetErrorKind(opened), ErrorKind::kExists) << contents.substr(0, 80) << opened;
    EXPECT_NE(std::string(opened.message()).find(path), std::string::npos) << opened;
    EXPECT_EQ(GetErrorKind(MetricsLog::Look(path).status()), ErrorKind::kExists) << contents.substr(0, 80);
    EXPECT_EQ(Contents(path), contents);
  }
}

TEST(MetricsLogTest, WhatIsNoFileIsRefused) {
  EXPECT_EQ(GetErrorKind(MetricsLog::Open("/dev/null", 1).status()), ErrorKind::kExists);
  EXPECT_EQ(GetErrorKind(MetricsLog::Look("/dev/null").status()), ErrorKind::kExists);
}

TEST(MetricsLogTest, MissingDirectoryIsAnIoError) {
  EXPECT_EQ(GetErrorKind(MetricsLog::Open(::testing::TempDir() + "/none/metrics", 0).status()), ErrorKind::kIo);
}

}  // namespace
}  // namespace waypoint::engine
