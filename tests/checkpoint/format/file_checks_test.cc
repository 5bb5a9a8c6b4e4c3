#include "checkpoint/format/file_checks.h"

#include <string>

#include "checkpoint/base/error.h"
#include "checkpoint/container/chunk_recorder.h"
#include "checkpoint/storage/memory_file_system.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {
namespace {

using ::testing::HasSubstr;

// MD5 of "abc" and of the empty text: RFC 1321, A.5.
constexpr char kMd5OfAbc[] = "900150983cd24fb0d6963f7d28e17f72";
constexpr char kMd5OfNothing[] = "d41d8cd98f00b204e9800998ecf8427e";

class FileChecksTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK(WriteSmallFile(fs_, "/abc", "abc"));
    ASSERT_OK(WriteSmallFile(fs_, "/empty", ""));
  }
  MemoryFileSystem fs_;
};

TEST_F(FileChecksTest, ListedChecksumsAreCompared) {
  EXPECT_OK(CheckListed(fs_, {{"/abc", kMd5OfAbc, "/list"}, {"/empty", kMd5OfNothing, "/list"}}, {}));
  EXPECT_THAT(CheckListed(fs_, {{"/abc", kMd5OfAbc, "/list"}, {"/empty", kMd5OfAbc, "/list"}}, {}),
              IsKind(ErrorKind::kChecksum, AllOf(HasSubstr("\"/empty\""), HasSubstr("\"/list\""))));
  EXPECT_OK(CheckListed(fs_, {}, {}));
}

TEST_F(FileChecksTest, RanksShareTheFiles) {
  const std::vector<ListedFile> listed = {{"/abc", kMd5OfAbc, "/list"}, {"/empty", kMd5OfAbc, "/list"}};
  EXPECT_OK(CheckListed(fs_, listed, {}, 0, 2));
  EXPECT_THAT(CheckListed(fs_, listed, {}, 1, 2), IsKind(ErrorKind::kChecksum));
}

TEST_F(FileChecksTest, ItStopsWhenAsked) {
  TransferOptions transfer;
  transfer.cancelled = [] { return true; };
  EXPECT_TRUE(absl::IsCancelled(CheckListed(fs_, {{"/abc", kMd5OfAbc, "/list"}}, transfer)));
}

TEST_F(FileChecksTest, FilesHaveDigestsWhereThatIsAskedFor) {
  LoadOptions options;
  ASSERT_OK_AND_ASSIGN(const CheckpointFile plain, TensorFile("abc", "/abc", 3, options));
  options.record_digests = true;
  ASSERT_OK_AND_ASSIGN(const CheckpointFile unread, TensorFile("abc", "/abc", 3, options));
  ASSERT_OK_AND_ASSIGN(const CheckpointFile read, TextFile("abc", "/gone", "abc", options));
  ASSERT_OK_AND_ASSIGN(const auto described, DescribeFiles(fs_, {plain, unread}));
  EXPECT_EQ(described[0].digest(), "");
  EXPECT_EQ(described[1].name(), "abc");
  EXPECT_EQ(described[1].size_bytes(), 3);
  EXPECT_EQ(described[1].digest(), FileDigest("abc"));
  EXPECT_EQ(read.recorder->Digest(), FileDigest("abc"));
}

}  // namespace
}  // namespace waypoint
