#include "checkpoint/async/page_guard.h"

#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <thread>
#include <vector>

#include "checkpoint/async/snapshot_arena.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kPage = PageGuard::kPageBytes;

class PageGuardTest : public ::testing::Test {
 protected:
  void SetUp() override { Make(4, -1); }

  void Make(int64_t pages, int64_t reserve_bytes) {
    ArenaOptions options;
    options.reserve_bytes = reserve_bytes;
    ASSERT_OK_AND_ASSIGN(arena_, SnapshotArena::Create(pages * kPage, options));
    if (arena_->guard() == nullptr) {
      GTEST_SKIP() << arena_->refusal();
    }
    ASSERT_OK_AND_ASSIGN(data_, arena_->Allocate(pages * kPage));
    for (int64_t i = 0; i < pages * kPage; ++i) {
      data_[i] = static_cast<char>(i / 7);
    }
    before_.assign(data_, data_ + pages * kPage);
  }

  PageGuard& guard() { return *arena_->guard(); }
  absl::Status ProtectAll() { return guard().Protect({{data_, data_ + before_.size()}}); }
  StridedSpan All() const { return StridedSpan::Contiguous(data_, 1, {static_cast<int64_t>(before_.size())}); }

  // What a reader of the snapshot sees of a contiguous span.
  absl::Status ReadAll(std::vector<char>* out) {
    out->assign(before_.size(), 'x');
    return guard().Read(All(), StridedSpan::Contiguous(out->data(), 1, {static_cast<int64_t>(out->size())}));
  }

  std::shared_ptr<SnapshotArena> arena_;
  char* data_ = nullptr;
  std::vector<char> before_;
};

TEST_F(PageGuardTest, ReadsWhatWasThereWhateverIsWritten) {
  ASSERT_OK(ProtectAll());
  std::memset(data_, 9, 3);                  // a part of page 0
  std::memset(data_ + 2 * kPage - 1, 9, 2);  // pages 1 and 2

  std::vector<char> read;
  ASSERT_OK(ReadAll(&read));
  guard().Release();

  EXPECT_EQ(read, before_);
  EXPECT_EQ(guard().stats().pages_protected, 4);
  EXPECT_EQ(guard().stats().pages_copied, 3);
  EXPECT_EQ(data_[2 * kPage], 9);
}

TEST_F(PageGuardTest, AnUntouchedSnapshotCopiesNothing) {
  ASSERT_OK(ProtectAll());

  std::vector<char> read;
  ASSERT_OK(ReadAll(&read));

  EXPECT_EQ(read, before_);
  EXPECT_EQ(guard().stats().pages_copied, 0);
}

TEST_F(PageGuardTest, StridedReadsCrossPagesOfBothKinds) {
  // [rows, columns] of 4-byte elements over all pages, read transposed.
  constexpr int64_t kRows = 4096;
  const int64_t columns = static_cast<int64_t>(before_.size()) / kRows / 4;
  const StridedSpan from = StridedSpan::Contiguous(data_, 4, {kRows, columns}).Transpose({1, 0});
  std::vector<char> expected(before_.size());
  const StridedSpan expected_span = StridedSpan::Contiguous(expected.data(), 4, {columns, kRows});
  CopyStrided(from, expected_span);
  ASSERT_OK(ProtectAll());
  std::memset(data_ + kPage, 1, kPage);
  std::memset(data_ + 3 * kPage, 1, 1);

  std::vector<char> read(before_.size());
  ASSERT_OK(guard().Read(from, StridedSpan::Contiguous(read.data(), 4, {columns, kRows})));

  EXPECT_EQ(read, expected);
}

TEST_F(PageGuardTest, WritersAndReadersRunAtOnce) {
  for (int round = 0; round < 20; ++round) {
    before_.assign(data_, data_ + before_.size());
    ASSERT_OK(ProtectAll());
    std::vector<std::thread> writers;
    for (int t = 0; t < 2; ++t) {
      writers.emplace_back([this, t, round] {
        const size_t half = before_.size() / 2;
        std::memset(data_ + t * half, round + 100 * t, half);
      });
    }
    std::vector<char> read;
    const absl::Status status = ReadAll(&read);
    for (std::thread& writer : writers) {
      writer.join();
    }
    guard().Release();
    ASSERT_OK(status);
    ASSERT_EQ(read, before_) << round;
    ASSERT_EQ(data_[0], static_cast<char>(round));
  }
}

TEST_F(PageGuardTest, ReleaseLetsWritersRunWithoutCopies) {
  ASSERT_OK(ProtectAll());
  guard().Release();

  std::memset(data_, 1, before_.size());

  EXPECT_EQ(guard().stats().pages_copied, 0);
}

TEST_F(PageGuardTest, OnlyTheRangesAreProtected) {
  ASSERT_OK(guard().Protect({{data_ + kPage + 5, data_ + kPage + 9}}));
  std::memset(data_, 1, kPage);
  EXPECT_EQ(guard().stats().pages_copied, 0);
  std::memset(data_ + 2 * kPage - 1, 1, 1);
  EXPECT_EQ(guard().stats().pages_copied, 1);
}

TEST_F(PageGuardTest, ASecondSnapshotIsRefusedUntilTheFirstIsReleased) {
  ASSERT_OK(guard().Protect({{data_, data_ + kPage}}));

  EXPECT_THAT(guard().Protect({{data_ + kPage, data_ + 2 * kPage}}), IsKind(ErrorKind::kLocked));
  EXPECT_EQ(guard().stats().pages_protected, 1);

  guard().Release();
  EXPECT_OK(guard().Protect({{data_ + kPage, data_ + 2 * kPage}}));
}

TEST_F(PageGuardTest, AFullReserveFailsTheReadAndStopsNobody) {
  Make(4, /*reserve_bytes=*/2 * kPage);
  ASSERT_OK(ProtectAll());
  std::memset(data_, 1, 3 * kPage);

  std::vector<char> read;
  EXPECT_THAT(ReadAll(&read), IsKind(ErrorKind::kLimit, HasSubstr("reserve of 4194304 bytes was full")));
  guard().Release();

  // The next snapshot has the whole reserve again.
  before_.assign(data_, data_ + before_.size());
  ASSERT_OK(ProtectAll());
  std::memset(data_ + 2 * kPage, 2, 2 * kPage);
  ASSERT_OK(ReadAll(&read));
  EXPECT_EQ(read, before_);
}

TEST(SnapshotArenaTest, AllocationsAreAlignedZeroedAndBounded) {
  ArenaOptions options;
  options.write_protect = false;
  ASSERT_OK_AND_ASSIGN(const auto arena, SnapshotArena::Create(kPage, options));

  ASSERT_OK_AND_ASSIGN(const char* first, arena->Allocate(3));
  ASSERT_OK_AND_ASSIGN(const char* second, arena->Allocate(kPage - 64));

  EXPECT_EQ(second - first, SnapshotArena::kAlignment);
  EXPECT_EQ(second[5], 0);
  EXPECT_TRUE(arena->Contains({first, second + kPage - 64}));
  EXPECT_FALSE(arena->Contains({first, second + kPage}));
  EXPECT_THAT(arena->Allocate(1), IsKind(ErrorKind::kLimit, HasSubstr("not 1")));
  EXPECT_EQ(arena->guard(), nullptr);
  EXPECT_THAT(arena->refusal(), HasSubstr("switched off"));
}

TEST(SnapshotArenaTest, AProcessWithoutPrivilegesLearnsWhy) {
  int pipe_ends[2];
  ASSERT_EQ(pipe(pipe_ends), 0);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    constexpr uid_t kNobody = 65534;
    if (geteuid() == 0 && setresuid(kNobody, kNobody, kNobody) != 0) {
      _exit(1);
    }
    const auto arena = SnapshotArena::Create(kPage, {});
    const std::string text = !arena.ok()                    ? std::string(arena.status().message())
                             : (*arena)->guard() != nullptr ? "allowed"
                                                            : (*arena)->refusal();
    _exit(write(pipe_ends[1], text.data(), text.size()) == static_cast<ssize_t>(text.size()) ? 0 : 1);
  }
  int status;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_EQ(status, 0);
  char text[1024] = "";
  ASSERT_GT(read(pipe_ends[0], text, sizeof(text) - 1), 0);
  close(pipe_ends[0]);
  close(pipe_ends[1]);

  if (std::string(text) == "allowed") {
    GTEST_SKIP() << "this kernel allows everybody";
  }
  EXPECT_THAT(text, HasSubstr("write protection by userfaultfd"));
}

}  // namespace
}  // namespace waypoint
