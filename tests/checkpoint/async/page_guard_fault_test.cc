// A kernel that refuses to lift a protection must not leave the writer of the memory waiting.

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstring>
#include <vector>

#include "checkpoint/async/snapshot_arena.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"

namespace {

std::atomic<bool> refuse_to_lift{false};

}  // namespace

// Comes before libc's.
extern "C" int ioctl(int fd, unsigned long request, ...) noexcept {
  va_list arguments;
  va_start(arguments, request);
  void* const argument = va_arg(arguments, void*);
  va_end(arguments);
  if (refuse_to_lift && request == UFFDIO_WRITEPROTECT && static_cast<uffdio_writeprotect*>(argument)->mode == 0) {
    errno = ENOMEM;
    return -1;
  }
  return static_cast<int>(syscall(SYS_ioctl, fd, request, argument));
}

namespace waypoint {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kPage = PageGuard::kPageBytes;

class PageGuardFaultTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK_AND_ASSIGN(arena_, SnapshotArena::Create(3 * kPage, {}));
    if (arena_->guard() == nullptr) {
      GTEST_SKIP() << arena_->refusal();
    }
    ASSERT_OK_AND_ASSIGN(data_, arena_->Allocate(3 * kPage));
    std::memset(data_, 'a', 3 * kPage);
  }
  void TearDown() override { refuse_to_lift = false; }

  std::shared_ptr<SnapshotArena> arena_;
  char* data_ = nullptr;
};

TEST_F(PageGuardFaultTest, AWriterIsWokenAndTheNextSnapshotIsRefused) {
  PageGuard& guard = *arena_->guard();
  ASSERT_OK(guard.Protect({{data_, data_ + 3 * kPage}}));
  refuse_to_lift = true;
  data_[kPage] = 'b';  // would wait for ever

  std::vector<char> read(3 * kPage);
  const StridedSpan all = StridedSpan::Contiguous(data_, 1, {3 * kPage});
  ASSERT_OK(guard.Read(all, StridedSpan::Contiguous(read.data(), 1, {3 * kPage})));
  guard.Release();
  data_[0] = 'b';
  data_[2 * kPage] = 'b';

  // The page was copied before it was written to: this snapshot is whole.
  EXPECT_EQ(read, std::vector<char>(3 * kPage, 'a'));
  EXPECT_THAT(guard.Protect({{data_, data_ + kPage}}),
              IsKind(ErrorKind::kUnsupported, HasSubstr("lifting the protection")));
}

TEST_F(PageGuardFaultTest, AReleaseThatIsRefusedStopsNobody) {
  PageGuard& guard = *arena_->guard();
  ASSERT_OK(guard.Protect({{data_, data_ + 3 * kPage}}));
  refuse_to_lift = true;

  guard.Release();
  std::memset(data_, 'c', 3 * kPage);

  EXPECT_EQ(guard.stats().pages_copied, 0);
  EXPECT_THAT(guard.Protect({{data_, data_ + kPage}}), IsKind(ErrorKind::kUnsupported));
}

}  // namespace
}  // namespace waypoint
