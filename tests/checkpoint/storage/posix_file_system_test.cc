// What only the kernel's file system has: links, FIFOs, limits, other processes.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/aligned_buffer.h"
#include "checkpoint/base/error.h"
#include "checkpoint/storage/file_system.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {
namespace {

class PosixFileSystemTest : public testing::Test {
 protected:
  void SetUp() override {
    const char* tmp = std::getenv("TEST_TMPDIR");
    root_ = JoinPath(tmp == nullptr ? "/tmp" : tmp, "posix_file_system_test");
    ASSERT_TRUE(RemoveTree(fs_, root_).ok());
    ASSERT_TRUE(MakeDirectories(fs_, root_).ok());
  }
  void TearDown() override { EXPECT_TRUE(RemoveTree(fs_, root_).ok()); }
  std::string Path(absl::string_view name) const { return JoinPath(root_, name); }

  FileSystem& fs_ = PosixFileSystem();
  std::string root_;
};

OpenOptions NoFollow() {
  OpenOptions options;
  options.no_follow = true;
  return options;
}

CreateOptions Direct(int64_t size_bytes) {
  CreateOptions options;
  options.direct = true;
  options.size_bytes = size_bytes;
  return options;
}

TEST_F(PosixFileSystemTest, LinkIsRefusedOnlyWhenAsked) {
  ASSERT_TRUE(WriteSmallFile(fs_, Path("file"), "x").ok());
  ASSERT_EQ(symlink("file", Path("link").c_str()), 0);
  ASSERT_EQ(symlink(".", Path("way").c_str()), 0);

  EXPECT_TRUE(fs_.OpenForRead(Path("link"), OpenOptions()).ok());
  EXPECT_EQ(GetErrorKind(fs_.OpenForRead(Path("link"), NoFollow()).status()), ErrorKind::kPath);
  EXPECT_TRUE(fs_.OpenForRead(Path("way/file"), NoFollow()).ok());
  EXPECT_EQ((*fs_.List(root_))[1].type, FileType::kSymlink);
  EXPECT_EQ(*fs_.RealPath(Path("link")), *fs_.RealPath(Path("file")));
}

TEST_F(PosixFileSystemTest, FifoIsRefusedWithoutWaiting) {
  ASSERT_EQ(mkfifo(Path("fifo").c_str(), 0666), 0);

  const auto file = fs_.OpenForRead(Path("fifo"), OpenOptions());
  EXPECT_EQ(GetErrorKind(file.status()), ErrorKind::kIo);
  EXPECT_TRUE(absl::StrContains(file.status().message(), "not a regular file")) << file.status();
}

TEST_F(PosixFileSystemTest, RemoveTreeDoesNotFollowLinks) {
  ASSERT_TRUE(MakeDirectories(fs_, Path("kept")).ok());
  ASSERT_TRUE(WriteSmallFile(fs_, Path("kept/file"), "x").ok());
  ASSERT_TRUE(MakeDirectories(fs_, Path("tree")).ok());
  ASSERT_EQ(symlink("../kept", Path("tree/link").c_str()), 0);
  ASSERT_EQ(symlink("kept", Path("link").c_str()), 0);

  ASSERT_TRUE(RemoveTree(fs_, Path("tree")).ok());
  ASSERT_TRUE(RemoveTree(fs_, Path("link")).ok());

  EXPECT_TRUE(*Exists(fs_, Path("kept/file")));
  EXPECT_EQ(fs_.List(root_)->size(), 1u);
}

TEST_F(PosixFileSystemTest, ReservedSpaceBeyondTheEndIsGivenBack) {
  auto file = fs_.Create(Path("file"), Direct(1 << 20));
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_TRUE((*file)->Write(0, absl::MakeConstSpan("12345", 5)).ok());
  ASSERT_TRUE((*file)->Sync().ok());

  EXPECT_EQ(fs_.Stat(Path("file"))->size_bytes, 5);
  ASSERT_TRUE((*file)->Close().ok());
  EXPECT_EQ(fs_.Stat(Path("file"))->size_bytes, 5);
}

TEST_F(PosixFileSystemTest, FileShortenedDuringReadingIsTruncatedNotASignal) {
  ASSERT_TRUE(WriteSmallFile(fs_, Path("file"), std::string(200000, 'x')).ok());
  for (const bool direct : {false, true}) {
    ASSERT_EQ(truncate(Path("file").c_str(), 200000), 0);
    OpenOptions options;
    options.direct = direct;
    auto file = fs_.OpenForRead(Path("file"), options);
    ASSERT_TRUE(file.ok());
    ASSERT_EQ(truncate(Path("file").c_str(), 50000), 0);
    AlignedBuffer buffer(200000);

    EXPECT_EQ(GetErrorKind((*file)->Read(0, buffer.span())), ErrorKind::kTruncated);
    EXPECT_EQ(GetErrorKind((*file)->Read(3, buffer.span().first(150000))), ErrorKind::kTruncated);
    EXPECT_TRUE((*file)->Read(0, buffer.span().first(50000)).ok());
  }
}

TEST_F(PosixFileSystemTest, FailedWriteStaysFailed) {
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit old_limit;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old_limit), 0);
  for (const bool direct : {false, true}) {
    SCOPED_TRACE(direct);
    auto file = fs_.Create(Path(absl::StrCat("file", direct)), direct ? Direct(0) : CreateOptions());
    ASSERT_TRUE(file.ok());
    rlimit limit = old_limit;
    limit.rlim_cur = 8192;
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
    AlignedBuffer buffer(16384);
    std::fill(buffer.data(), buffer.data() + buffer.size(), 'x');
    const absl::Status written = (*file)->Write(0, buffer.span());
    const auto reserved = fs_.Create(Path(absl::StrCat("reserved", direct)), Direct(16384));
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &old_limit), 0);

    // The disk has room: "no space" would send the user to the wrong place.
    EXPECT_THAT(written, IsKind(ErrorKind::kIo, testing::HasSubstr("ulimit -f")));
    EXPECT_THAT(reserved.status(), IsKind(ErrorKind::kIo, testing::HasSubstr("ulimit -f")));
    EXPECT_FALSE(*Exists(fs_, Path(absl::StrCat("reserved", direct))));
    EXPECT_EQ((*file)->Write(0, buffer.span().first(1)), written);
    EXPECT_EQ((*file)->Sync(), written);
    EXPECT_EQ((*file)->Close(), written);
  }
}

TEST_F(PosixFileSystemTest, LockOfADeadProcessIsFree) {
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const auto lock = PosixFileSystem().Lock(Path("lock"));
    _exit(lock.ok() ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_EQ(status, 0);

  EXPECT_TRUE(fs_.Lock(Path("lock")).ok());
}

TEST_F(PosixFileSystemTest, LockOfALiveProcessNamesIt) {
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const auto lock = PosixFileSystem().Lock(Path("lock"));
    if (write(ready[1], lock.ok() ? "y" : "n", 1) != 1) {
      _exit(1);
    }
    pause();
    _exit(1);
  }
  char answer = 0;
  ASSERT_EQ(read(ready[0], &answer, 1), 1);
  const auto lock = fs_.Lock(Path("lock"));
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  close(ready[0]);
  close(ready[1]);

  EXPECT_EQ(answer, 'y');
  EXPECT_EQ(GetErrorKind(lock.status()), ErrorKind::kLocked);
  EXPECT_TRUE(absl::StrContains(lock.status().message(), absl::StrCat("pid ", child, " on "))) << lock.status();
  EXPECT_TRUE(fs_.Lock(Path("lock")).ok());
}

// tmpfs refuses O_DIRECT.
TEST_F(PosixFileSystemTest, DirectFallsBackWhereItIsRefused) {
  const std::string path = absl::StrCat("/dev/shm/posix_file_system_test-", getpid());
  AlignedBuffer buffer(100000);
  std::fill(buffer.data(), buffer.data() + buffer.size(), 'x');
  auto file = fs_.Create(path, Direct(100000));
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_TRUE((*file)->Write(0, buffer.span()).ok());
  ASSERT_TRUE((*file)->Sync().ok());
  ASSERT_TRUE((*file)->Close().ok());
  OpenOptions options;
  options.direct = true;
  auto reader = fs_.OpenForRead(path, options);
  ASSERT_TRUE(reader.ok());
  AlignedBuffer read(100000);

  EXPECT_TRUE((*reader)->Read(0, read.span()).ok());
  EXPECT_TRUE(std::equal(read.data(), read.data() + 100000, buffer.data()));
  EXPECT_TRUE(fs_.RemoveFile(path).ok());
}

}  // namespace
}  // namespace waypoint
