#include "checkpoint/container/file_kind.h"

#include <string>

#include "checkpoint/base/error.h"
#include "checkpoint/storage/memory_file_system.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(PointerKindTest, PointersSayHowToFetchTheFile) {
  const std::pair<const char*, const char*> kPointers[] = {
      {"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "git lfs pull"},
      {"version https://hawser.github.com/spec/v1\noid sha256:0\nsize 3\n", "git lfs pull"},
      {"# xet version 0\nfilesize = 3\nhash = '0'\n", "git xet checkout"},
      {"/annex/objects/SHA256E-s3--0.model\n", "git annex get"},
      {"../.git/annex/objects/Xx/Yy/SHA256E-s3--0.model", "git annex get"},
  };
  MemoryFileSystem fs;
  for (const auto& [text, remedy] : kPointers) {
    ASSERT_OK(WriteSmallFile(fs, "/tokenizer.model", text));
    EXPECT_THAT(CheckNoPointer(fs, "/tokenizer.model"),
                IsKind(ErrorKind::kHeader, AllOf(HasSubstr("\"/tokenizer.model\""), HasSubstr(remedy))));
    EXPECT_THAT(ReadSmallRealFile(fs, "/tokenizer.model", 1000, "limit"),
                IsKind(ErrorKind::kHeader, HasSubstr(remedy)));
    EXPECT_THAT(std::string(FileKind(text)), HasSubstr(remedy));
    ASSERT_OK(fs.RemoveFile("/tokenizer.model"));
  }
}

TEST(PointerKindTest, OtherFilesAreNone) {
  MemoryFileSystem fs;
  ASSERT_OK(WriteSmallFile(fs, "/empty", ""));
  EXPECT_OK(CheckNoPointer(fs, "/empty"));
  EXPECT_THAT(PointerKind("{\"version\": \"1.0\"}"), IsEmpty());
  EXPECT_THAT(PointerKind("version 2\n"), IsEmpty());
  EXPECT_EQ(ReadSmallRealFile(fs, "/empty", 1000, "limit").value(), "");
}

}  // namespace
}  // namespace waypoint
