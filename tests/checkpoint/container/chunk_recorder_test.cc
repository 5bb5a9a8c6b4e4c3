#include "checkpoint/container/chunk_recorder.h"

#include <algorithm>
#include <string>

#include "checkpoint/base/error.h"
#include "checkpoint/storage/memory_file_system.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/safetensors_bytes.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kBytes = 3 * kDigestChunkBytes + 17;

class ChunkRecorderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    contents_ = SomeBytes(kBytes);
    ASSERT_OK(WriteSmallFile(fs_, "/f", contents_));
    ASSERT_OK_AND_ASSIGN(file_, fs_.OpenForRead("/f", OpenOptions()));
    ASSERT_OK_AND_ASSIGN(recorder_, ChunkRecorder::Create(kBytes));
  }

  absl::Status See(int64_t chunk, int64_t chunks = 1) {
    const int64_t begin = chunk * kDigestChunkBytes;
    return recorder_->See(begin, absl::MakeConstSpan(contents_).subspan(begin, chunks * kDigestChunkBytes));
  }

  MemoryFileSystem fs_;
  std::string contents_;
  std::unique_ptr<ReadableFile> file_;
  std::shared_ptr<ChunkRecorder> recorder_;
};

TEST_F(ChunkRecorderTest, TheOrderDoesNotMatterNorWhoReadsTheRest) {
  ASSERT_OK(See(2, 2));
  ASSERT_OK(See(0));
  ASSERT_OK(recorder_->Complete(*file_));

  EXPECT_EQ(recorder_->Digest(), FileDigest(contents_));
  EXPECT_THAT(recorder_->Digest(), ::testing::MatchesRegex("xxh3-256k:[0-9a-f]{16}"));
}

TEST_F(ChunkRecorderTest, EveryByteCounts) {
  for (const int64_t at : {int64_t{0}, kDigestChunkBytes, kBytes - 1}) {
    std::string other = contents_;
    other[at] ^= 1;
    EXPECT_NE(FileDigest(other), FileDigest(contents_)) << at;
  }
  EXPECT_NE(FileDigest(contents_ + std::string(1, '\0')), FileDigest(contents_));
}

TEST_F(ChunkRecorderTest, AFileThatChangesWhileItIsReadIsFound) {
  ASSERT_OK(See(1));
  ASSERT_OK(See(1));
  contents_[kDigestChunkBytes] ^= 1;
  EXPECT_THAT(See(1), IsKind(ErrorKind::kChecksum, HasSubstr("changed while it was read")));
}

TEST_F(ChunkRecorderTest, WhatOtherProcessesSawIsPutTogether) {
  ASSERT_OK_AND_ASSIGN(const auto other, ChunkRecorder::Create(kBytes));
  ASSERT_OK(See(0, 2));
  ASSERT_OK(other->See(2 * kDigestChunkBytes, absl::MakeConstSpan(contents_).subspan(2 * kDigestChunkBytes)));

  ASSERT_OK(recorder_->Merge(other->Seen()));

  EXPECT_EQ(recorder_->Digest(), FileDigest(contents_));
  EXPECT_THAT(recorder_->Merge("short"), IsKind(ErrorKind::kSizeMismatch));
}

}  // namespace
}  // namespace waypoint
