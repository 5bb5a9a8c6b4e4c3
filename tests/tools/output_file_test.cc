#include "tools/output_file.h"

#include <fstream>
#include <iterator>
#include <string>

#include "checkpoint/base/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_directory.h"

namespace waypoint {
namespace {

using ::testing::HasSubstr;

std::string Contents(const std::string& path) {
  std::ifstream file(path);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

TEST(OutputFileTest, PiecesStandOneBehindTheOther) {
  const TempDirectory directory;
  ASSERT_OK_AND_ASSIGN(const OutputFile output, OutputFile::Check("--output", directory.Path("new"), false));

  EXPECT_OK(output.Write({"ab", "", "c"}));

  EXPECT_FALSE(output.replaces());
  EXPECT_EQ(Contents(directory.Path("new")), "abc");
}

// Whatever Check saw is looked at once more.
TEST(OutputFileTest, WhatSomebodyElseMadeMeanwhileStays) {
  const TempDirectory directory;
  ASSERT_OK_AND_ASSIGN(const OutputFile output, OutputFile::Check("--output", directory.Path("new"), false));
  directory.Write("new", "theirs");

  EXPECT_THAT(output.Write({"ours"}), IsKind(ErrorKind::kExists, HasSubstr("--output: ")));

  EXPECT_EQ(Contents(directory.Path("new")), "theirs");
}

TEST(OutputFileTest, AFileThatBecameALinkIsNotReplaced) {
  const TempDirectory directory;
  directory.Write("old", "old");
  directory.Write("other", "other");
  ASSERT_OK_AND_ASSIGN(const OutputFile output, OutputFile::Check("--output", directory.Path("old"), true));
  EXPECT_TRUE(output.replaces());
  directory.Link("other", "old");

  EXPECT_THAT(output.Write({"ours"}), IsKind(ErrorKind::kRequest, HasSubstr("is a link to a file")));

  EXPECT_EQ(Contents(directory.Path("other")), "other");
}

TEST(OutputFileTest, AnEmptyNameIsRefused) {
  EXPECT_THAT(OutputFile::Check("--output", "", true), IsKind(ErrorKind::kRequest));
}

}  // namespace
}  // namespace waypoint
