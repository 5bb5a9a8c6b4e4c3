#include "checkpoint/base/aligned_buffer.h"

#include "gtest/gtest.h"

namespace waypoint {
namespace {

bool IsAt(const AlignedBuffer& buffer, int64_t alignment) {
  return reinterpret_cast<intptr_t>(buffer.data()) % alignment == 0;
}

TEST(AlignedBufferTest, EveryBufferStartsAtAPage) {
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{4097}, size_t{1} << 20, (size_t{5} << 20) + 3}) {
    const AlignedBuffer buffer(bytes);
    EXPECT_TRUE(IsAt(buffer, kDirectAlignment)) << bytes;
    EXPECT_EQ(buffer.size(), bytes);
  }
}

// From small pages a disk gets requests of a quarter of the size.
TEST(AlignedBufferTest, LargeBuffersStartAtAHugePage) {
  EXPECT_TRUE(IsAt(AlignedBuffer(kHugePageBytes), kHugePageBytes));
  EXPECT_TRUE(IsAt(AlignedBuffer(4 * kHugePageBytes + 1), kHugePageBytes));
}

TEST(AlignedBufferTest, ReservingKeepsWhatIsLargeEnough) {
  AlignedBuffer buffer(8192);
  char* const before = buffer.data();

  buffer.Reserve(4096);

  EXPECT_EQ(buffer.data(), before);
  buffer.Reserve(kHugePageBytes);
  EXPECT_EQ(buffer.size(), static_cast<size_t>(kHugePageBytes));
}

}  // namespace
}  // namespace waypoint
