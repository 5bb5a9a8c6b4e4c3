#include "tools/resident_memory.h"

#include "checkpoint/base/error.h"
#include "gtest/gtest.h"

namespace waypoint {
namespace {

TEST(SplitMemoryTest, TheWholeStaysWithinTheBound) {
  for (const int64_t mebibytes : {64, 65, 100, 128, 256, 1024, 65536}) {
    for (const int threads : {0, 1, 2, 3, 4, 7, 16, 64, 256}) {
      const absl::StatusOr<MemorySplit> split = SplitMemory(mebibytes << 20, threads);
      ASSERT_TRUE(split.ok()) << split.status();
      EXPECT_GE(split->threads, 1);
      EXPECT_LE(3 * split->threads * split->block_bytes, split->bytes_in_flight) << mebibytes << " MiB, " << threads;
      EXPECT_LT(split->bytes_in_flight, mebibytes << 20);
      EXPECT_GE(split->block_bytes, 256 << 10);
      EXPECT_LE(split->block_bytes, 8 << 20);
    }
  }
}

TEST(SplitMemoryTest, TheDefaultUsesFourThreadsAndFullBlocks) {
  const absl::StatusOr<MemorySplit> split = SplitMemory(kDefaultMaxMemory, 0);
  ASSERT_TRUE(split.ok()) << split.status();
  EXPECT_EQ(split->threads, 4);
  EXPECT_EQ(split->block_bytes, 8 << 20);
}

TEST(SplitMemoryTest, TooLittleMemoryIsAWrongRequest) {
  EXPECT_EQ(GetErrorKind(SplitMemory(kMinMaxMemory - 1, 0).status()), ErrorKind::kRequest);
  EXPECT_EQ(GetErrorKind(SplitMemory(kDefaultMaxMemory, -1).status()), ErrorKind::kRequest);
}

TEST(ReadResidentMemoryTest, PeakIsNotBelowCurrent) {
  const ResidentMemory memory = ReadResidentMemory();
  EXPECT_GT(memory.current_bytes, 0);
  EXPECT_GE(memory.peak_bytes, memory.current_bytes);
}

}  // namespace
}  // namespace waypoint
