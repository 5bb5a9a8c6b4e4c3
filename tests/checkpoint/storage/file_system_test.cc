// What every FileSystem promises, run over each backend.

#include "checkpoint/storage/file_system.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/aligned_buffer.h"
#include "checkpoint/base/error.h"
#include "checkpoint/storage/memory_file_system.h"

namespace waypoint {
namespace {

struct Backend {
  std::string name;
  std::function<std::unique_ptr<FileSystem>()> make;  // null: the kernel's
  bool direct;
};

std::string Pattern(int64_t bytes) {
  std::string text(bytes, '\0');
  for (int64_t i = 0; i < bytes; ++i) {
    text[i] = static_cast<char>((i * 2654435761u) >> 13);
  }
  return text;
}

class FileSystemTest : public testing::TestWithParam<Backend> {
 protected:
  void SetUp() override {
    if (GetParam().make != nullptr) {
      owned_ = GetParam().make();
    }
    const char* tmp = std::getenv("TEST_TMPDIR");
    root_ = JoinPath(
        tmp == nullptr ? "/tmp" : tmp,
        absl::StrCat("fs-", GetParam().name, "-", testing::UnitTest::GetInstance()->current_test_info()->line()));
    ASSERT_TRUE(RemoveTree(fs(), root_).ok());
    ASSERT_TRUE(MakeDirectories(fs(), root_).ok());
  }
  void TearDown() override { EXPECT_TRUE(RemoveTree(fs(), root_).ok()); }

  FileSystem& fs() { return owned_ == nullptr ? PosixFileSystem() : *owned_; }
  std::string Path(absl::string_view name) const { return JoinPath(root_, name); }
  void Put(absl::string_view name, absl::string_view contents) {
    const absl::Status status = WriteSmallFile(fs(), Path(name), contents);
    ASSERT_TRUE(status.ok()) << status;
  }
  std::string Get(absl::string_view name) {
    const absl::StatusOr<std::string> contents = ReadSmallFile(fs(), Path(name), int64_t{64} << 20, "test_bytes");
    return contents.ok() ? *contents : std::string(contents.status().message());
  }
  CreateOptions Creating(int64_t size_bytes = 0) const {
    CreateOptions options;
    options.direct = GetParam().direct;
    options.size_bytes = size_bytes;
    return options;
  }
  OpenOptions Opening() const {
    OpenOptions options;
    options.direct = GetParam().direct;
    return options;
  }

  std::unique_ptr<FileSystem> owned_;
  std::string root_;
};

TEST_P(FileSystemTest, WrittenFileReadsBack) {
  Put("a", "hello");

  EXPECT_EQ(Get("a"), "hello");
  EXPECT_EQ(fs().Stat(Path("a"))->size_bytes, 5);
  EXPECT_EQ(fs().Stat(Path("a"))->type, FileType::kFile);
}

TEST_P(FileSystemTest, EmptyFileReadsBack) {
  Put("empty", "");

  EXPECT_EQ(Get("empty"), "");
}

// Pieces of awkward sizes, backwards, from aligned and unaligned addresses.
TEST_P(FileSystemTest, PiecesInAnyOrderMakeTheFile) {
  const std::string contents = Pattern(3 * 1024 * 1024 + 777);
  for (const int64_t piece_bytes : {1000, 4096, 4097, 100000, 1 << 20}) {
    for (const int64_t reserved : {int64_t{0}, static_cast<int64_t>(contents.size()), int64_t{8} << 20}) {
      const std::string name = absl::StrCat("pieces-", piece_bytes, "-", reserved);
      auto file = fs().Create(Path(name), Creating(reserved));
      ASSERT_TRUE(file.ok()) << file.status();
      const int64_t pieces = (contents.size() + piece_bytes - 1) / piece_bytes;
      for (int64_t i = pieces - 1; i >= 0; --i) {
        const absl::string_view piece = absl::string_view(contents).substr(i * piece_bytes, piece_bytes);
        ASSERT_TRUE((*file)->Write(i * piece_bytes, absl::MakeConstSpan(piece.data(), piece.size())).ok());
      }
      ASSERT_TRUE((*file)->Sync().ok());
      ASSERT_TRUE((*file)->Close().ok());

      EXPECT_TRUE(Get(name) == contents) << name;
    }
  }
}

TEST_P(FileSystemTest, AlignedWritesFromSeveralThreadsMakeTheFile) {
  const int64_t piece_bytes = 256 * 1024;
  const std::string contents = Pattern(8 * piece_bytes + 123);
  AlignedBuffer buffer(contents.size());
  std::copy(contents.begin(), contents.end(), buffer.data());
  auto file = fs().Create(Path("parallel"), Creating(contents.size()));
  ASSERT_TRUE(file.ok()) << file.status();

  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      for (int64_t i = t; i < 9; i += 3) {
        const int64_t bytes = std::min<int64_t>(piece_bytes, contents.size() - i * piece_bytes);
        EXPECT_TRUE((*file)->Write(i * piece_bytes, absl::MakeConstSpan(buffer.data() + i * piece_bytes, bytes)).ok());
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  ASSERT_TRUE((*file)->Sync().ok());
  ASSERT_TRUE((*file)->Close().ok());

  EXPECT_TRUE(Get("parallel") == contents);
}

TEST_P(FileSystemTest, SeveralWritersFillOneFile) {
  const std::string path = JoinPath(root_, "shared");
  CreateOptions options;
  options.direct = true;
  options.shared = true;
  options.size_bytes = 3 * 4096 + 100;
  const std::string bytes =
      std::string(4096, 'a') + std::string(4096, 'b') + std::string(4096, 'c') + std::string(100, 'd');
  const auto span = [&bytes](int64_t offset, int64_t size) { return absl::MakeConstSpan(bytes).subspan(offset, size); };
  {
    auto first = fs().Create(path, options);
    ASSERT_TRUE(first.ok()) << first.status();
    auto second = fs().OpenForWrite(path, options);
    ASSERT_TRUE(second.ok()) << second.status();
    // The creator is done before the others are.
    EXPECT_TRUE((*first)->Write(4096, span(4096, 4096)).ok());
    EXPECT_TRUE((*first)->Sync().ok());
    EXPECT_TRUE((*first)->Close().ok());
    EXPECT_TRUE((*second)->Write(8192, span(8192, 4196)).ok());
    EXPECT_TRUE((*second)->Write(0, span(0, 4096)).ok());
    EXPECT_TRUE((*second)->Sync().ok());
    EXPECT_TRUE((*second)->Close().ok());
  }

  EXPECT_EQ(ReadSmallFile(fs(), path, 1 << 20, "test_bytes").value(), bytes);
}

TEST_P(FileSystemTest, AWriterOfASharedFileMustAgreeOnItsSize) {
  const std::string path = JoinPath(root_, "shared");
  CreateOptions options;
  options.shared = true;
  options.size_bytes = 5000;
  ASSERT_TRUE(fs().Create(path, options).ok());

  EXPECT_EQ(fs().Stat(path)->size_bytes, 5000);
  options.size_bytes = 5001;
  EXPECT_EQ(GetErrorKind(fs().OpenForWrite(path, options).status()), ErrorKind::kSizeMismatch);
  EXPECT_EQ(GetErrorKind(fs().OpenForWrite(JoinPath(root_, "missing"), options).status()), ErrorKind::kIo);
}

TEST_P(FileSystemTest, LaterWriteOverwritesEarlier) {
  auto file = fs().Create(Path("twice"), Creating());
  ASSERT_TRUE(file.ok()) << file.status();
  AlignedBuffer page(4096);
  std::fill(page.data(), page.data() + 4096, 'p');
  ASSERT_TRUE((*file)->Write(10, absl::MakeConstSpan("old", 3)).ok());
  ASSERT_TRUE((*file)->Write(0, page.span()).ok());
  ASSERT_TRUE((*file)->Write(20, absl::MakeConstSpan("new", 3)).ok());
  ASSERT_TRUE((*file)->Sync().ok());
  ASSERT_TRUE((*file)->Write(30, absl::MakeConstSpan("more", 4)).ok());
  ASSERT_TRUE((*file)->Close().ok());

  std::string wanted(4096, 'p');
  wanted.replace(20, 3, "new").replace(30, 4, "more");
  EXPECT_EQ(Get("twice"), wanted);
}

TEST_P(FileSystemTest, ScatteredSmallWritesSurvive) {
  const std::string contents = Pattern(400 * 4096);
  auto file = fs().Create(Path("scattered"), Creating());
  ASSERT_TRUE(file.ok()) << file.status();
  for (const int64_t part : {0, 1}) {
    for (int64_t page = 0; page < 400; ++page) {
      const int64_t offset = page * 4096 + part * 1000;
      ASSERT_TRUE((*file)->Write(offset, absl::MakeConstSpan(&contents[offset], part == 0 ? 1000 : 3096)).ok());
    }
  }
  ASSERT_TRUE((*file)->Close().ok());

  EXPECT_TRUE(Get("scattered") == contents);
}

TEST_P(FileSystemTest, AnyRangeReadsBack) {
  const std::string contents = Pattern(3 * 1024 * 1024 + 777);
  Put("ranges", contents);
  auto file = fs().OpenForRead(Path("ranges"), Opening());
  ASSERT_TRUE(file.ok()) << file.status();
  AlignedBuffer buffer(contents.size() + 8192);
  for (const int64_t offset : {0, 1, 4095, 4096, 5000, 1 << 20}) {
    for (const int64_t bytes : {int64_t{0}, int64_t{1}, int64_t{4096}, int64_t{70000}, int64_t{1 << 20},
                                static_cast<int64_t>(contents.size()) - offset}) {
      for (const int64_t shift : {int64_t{0}, int64_t{1}, offset % 4096}) {
        const absl::Span<char> out = buffer.span().subspan(shift, bytes);
        const absl::Status status = (*file)->Read(offset, out);
        ASSERT_TRUE(status.ok()) << status;
        ASSERT_TRUE(absl::string_view(out.data(), out.size()) == absl::string_view(contents).substr(offset, bytes))
            << offset << " " << bytes << " " << shift;
      }
    }
  }
}

TEST_P(FileSystemTest, ReadPastTheEndIsTruncated) {
  Put("short", "12345");
  auto file = fs().OpenForRead(Path("short"), Opening());
  ASSERT_TRUE(file.ok());
  char out[8];

  EXPECT_EQ(GetErrorKind((*file)->Read(0, absl::MakeSpan(out, 6))), ErrorKind::kTruncated);
  EXPECT_EQ(GetErrorKind((*file)->Read(6, absl::MakeSpan(out, 1))), ErrorKind::kTruncated);
  EXPECT_EQ(GetErrorKind((*file)->Read(-1, absl::MakeSpan(out, 1))), ErrorKind::kTruncated);
  EXPECT_EQ(GetErrorKind((*file)->Read(INT64_MAX, absl::MakeSpan(out, 1))), ErrorKind::kTruncated);
  EXPECT_TRUE((*file)->Read(5, absl::MakeSpan(out, 0)).ok());
}

TEST_P(FileSystemTest, MissingFileIsAnIoErrorThatNamesIt) {
  const auto file = fs().OpenForRead(Path("nobody"), Opening());

  EXPECT_EQ(GetErrorKind(file.status()), ErrorKind::kIo);
  EXPECT_TRUE(absl::StrContains(file.status().message(), "not found"));
  EXPECT_TRUE(absl::StrContains(file.status().message(), "nobody"));
  EXPECT_EQ(GetErrorKind(fs().Stat(Path("nobody")).status()), ErrorKind::kIo);
  EXPECT_EQ(GetErrorKind(fs().List(Path("nobody")).status()), ErrorKind::kIo);
  EXPECT_EQ(GetErrorKind(fs().RemoveFile(Path("nobody"))), ErrorKind::kIo);
  EXPECT_EQ(GetErrorKind(fs().RemoveDirectory(Path("nobody"))), ErrorKind::kIo);
  EXPECT_EQ(GetErrorKind(fs().Rename(Path("nobody"), Path("x"))), ErrorKind::kIo);
  EXPECT_EQ(GetErrorKind(fs().Create(Path("nobody/x"), Creating()).status()), ErrorKind::kIo);
  EXPECT_EQ(GetErrorKind(fs().SyncDirectory(Path("nobody"))), ErrorKind::kIo);
  EXPECT_FALSE(*Exists(fs(), Path("nobody")));
  EXPECT_FALSE(*Exists(fs(), Path("nobody/below")));
}

TEST_P(FileSystemTest, DirectoryIsNoFile) {
  ASSERT_TRUE(fs().MakeDirectory(Path("d")).ok());

  EXPECT_EQ(GetErrorKind(fs().OpenForRead(Path("d"), Opening()).status()), ErrorKind::kIo);
  EXPECT_EQ(fs().Stat(Path("d"))->type, FileType::kDirectory);
  EXPECT_FALSE(fs().RemoveFile(Path("d")).ok());
}

TEST_P(FileSystemTest, PathThroughAFileNamesNothing) {
  Put("f", "x");

  EXPECT_FALSE(*Exists(fs(), Path("f/below")));
  EXPECT_FALSE(fs().MakeDirectory(Path("f/below")).ok());
}

TEST_P(FileSystemTest, CreateAndMakeDirectoryRefuseWhatExists) {
  Put("f", "x");
  ASSERT_TRUE(fs().MakeDirectory(Path("d")).ok());

  EXPECT_EQ(GetErrorKind(fs().Create(Path("f"), Creating()).status()), ErrorKind::kExists);
  EXPECT_EQ(GetErrorKind(fs().Create(Path("d"), Creating()).status()), ErrorKind::kExists);
  EXPECT_EQ(GetErrorKind(fs().MakeDirectory(Path("d"))), ErrorKind::kExists);
  EXPECT_EQ(GetErrorKind(fs().MakeDirectory(Path("f"))), ErrorKind::kExists);
  EXPECT_EQ(Get("f"), "x");
}

TEST_P(FileSystemTest, ListIsSortedBytewise) {
  Put("b", "");
  Put("B", "");
  Put("a.x", "");
  ASSERT_TRUE(fs().MakeDirectory(Path("a")).ok());
  Put("a/inner", "");

  const auto entries = fs().List(root_);
  ASSERT_TRUE(entries.ok());
  std::string names;
  for (const DirectoryEntry& entry : *entries) {
    absl::StrAppend(&names, entry.name, entry.type == FileType::kDirectory ? "/ " : " ");
  }
  EXPECT_EQ(names, "B a/ a.x b ");
}

TEST_P(FileSystemTest, RenameReplacesAFile) {
  Put("from", "new");
  Put("to", "old");

  ASSERT_TRUE(fs().Rename(Path("from"), Path("to")).ok());

  EXPECT_EQ(Get("to"), "new");
  EXPECT_FALSE(*Exists(fs(), Path("from")));
}

TEST_P(FileSystemTest, RenameMovesADirectory) {
  ASSERT_TRUE(fs().MakeDirectory(Path("from")).ok());
  Put("from/f", "x");

  ASSERT_TRUE(fs().Rename(Path("from"), Path("to")).ok());

  EXPECT_EQ(Get("to/f"), "x");
  EXPECT_FALSE(*Exists(fs(), Path("from")));
}

TEST_P(FileSystemTest, RenameRefusesANonEmptyDirectory) {
  ASSERT_TRUE(fs().MakeDirectory(Path("from")).ok());
  ASSERT_TRUE(fs().MakeDirectory(Path("to")).ok());
  Put("to/f", "x");

  EXPECT_EQ(GetErrorKind(fs().Rename(Path("from"), Path("to"))), ErrorKind::kExists);
  EXPECT_EQ(Get("to/f"), "x");
}

TEST_P(FileSystemTest, ExchangeSwapsDirectories) {
  ASSERT_TRUE(fs().MakeDirectory(Path("a")).ok());
  ASSERT_TRUE(fs().MakeDirectory(Path("b")).ok());
  Put("a/f", "from a");
  Put("b/f", "from b");

  const absl::Status status = fs().Exchange(Path("a"), Path("b"));
  if (GetErrorKind(status) == ErrorKind::kUnsupported) {
    EXPECT_EQ(Get("a/f"), "from a");
    GTEST_SKIP() << status;
  }
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(Get("a/f"), "from b");
  EXPECT_EQ(Get("b/f"), "from a");
}

TEST_P(FileSystemTest, ExchangeNeedsBothPaths) {
  ASSERT_TRUE(fs().MakeDirectory(Path("a")).ok());

  EXPECT_EQ(GetErrorKind(fs().Exchange(Path("a"), Path("b"))), ErrorKind::kIo);
}

TEST_P(FileSystemTest, RemoveDirectoryRefusesANonEmptyOne) {
  ASSERT_TRUE(fs().MakeDirectory(Path("d")).ok());
  Put("d/f", "x");

  EXPECT_FALSE(fs().RemoveDirectory(Path("d")).ok());
  ASSERT_TRUE(fs().RemoveFile(Path("d/f")).ok());
  EXPECT_TRUE(fs().RemoveDirectory(Path("d")).ok());
  EXPECT_FALSE(*Exists(fs(), Path("d")));
}

TEST_P(FileSystemTest, SyncDirectoryAcceptsADirectory) { EXPECT_TRUE(fs().SyncDirectory(root_).ok()); }

TEST_P(FileSystemTest, LockExcludesASecondHolderAndNamesTheFirst) {
  auto first = fs().Lock(Path("lock"));
  ASSERT_TRUE(first.ok()) << first.status();

  const auto second = fs().Lock(Path("lock"));
  EXPECT_EQ(GetErrorKind(second.status()), ErrorKind::kLocked);
  EXPECT_TRUE(absl::StrContains(second.status().message(), "pid ")) << second.status();

  first->reset();
  EXPECT_TRUE(fs().Lock(Path("lock")).ok());
  EXPECT_TRUE(*Exists(fs(), Path("lock")));
}

TEST_P(FileSystemTest, FreeBytesArePositive) {
  const auto free_bytes = fs().FreeBytes(root_);
  ASSERT_TRUE(free_bytes.ok());
  EXPECT_GT(*free_bytes, 0);
}

TEST_P(FileSystemTest, ImpossibleReservationFailsEarlyAndLeavesNothing) {
  const auto file = fs().Create(Path("huge"), Creating(int64_t{1} << 43));

  EXPECT_EQ(GetErrorKind(file.status()), ErrorKind::kNoSpace) << file.status();
  EXPECT_FALSE(*Exists(fs(), Path("huge")));
}

TEST_P(FileSystemTest, RealPathOfADirectoryIsAbsolute) {
  const auto real = fs().RealPath(Path("."));
  ASSERT_TRUE(real.ok()) << real.status();
  EXPECT_EQ((*real)[0], '/');
  EXPECT_EQ(BaseName(*real), BaseName(root_));
}

TEST_P(FileSystemTest, MakeDirectoriesMakesAllAndIsRepeatable) {
  ASSERT_TRUE(MakeDirectories(fs(), Path("x/y/z/")).ok());
  ASSERT_TRUE(MakeDirectories(fs(), Path("x/y/z")).ok());
  EXPECT_EQ(fs().Stat(Path("x/y/z"))->type, FileType::kDirectory);

  Put("f", "");
  EXPECT_EQ(GetErrorKind(MakeDirectories(fs(), Path("f"))), ErrorKind::kExists);
}

TEST_P(FileSystemTest, RemoveTreeRemovesAllAndIsRepeatable) {
  ASSERT_TRUE(MakeDirectories(fs(), Path("x/y/z")).ok());
  Put("x/f", "1");
  Put("x/y/g", "2");
  Put("kept", "3");

  ASSERT_TRUE(RemoveTree(fs(), Path("x")).ok());
  ASSERT_TRUE(RemoveTree(fs(), Path("x")).ok());
  ASSERT_TRUE(RemoveTree(fs(), Path("missing/parent")).ok());

  EXPECT_FALSE(*Exists(fs(), Path("x")));
  EXPECT_EQ(Get("kept"), "3");
  EXPECT_EQ(GetErrorKind(RemoveTree(fs(), "/")), ErrorKind::kRequest);
  EXPECT_EQ(GetErrorKind(RemoveTree(fs(), Path(".."))), ErrorKind::kRequest);
}

TEST_P(FileSystemTest, SmallFileBeyondTheLimitIsRefused) {
  Put("f", "12345");

  const auto contents = ReadSmallFile(fs(), Path("f"), 4, "json_file_bytes");
  EXPECT_EQ(GetErrorKind(contents.status()), ErrorKind::kLimit);
  EXPECT_TRUE(absl::StrContains(contents.status().message(), "json_file_bytes"));
}

INSTANTIATE_TEST_SUITE_P(Backends, FileSystemTest,
                         testing::Values(Backend{"posix", nullptr, false}, Backend{"posix_direct", nullptr, true},
                                         Backend{"memory", [] { return std::make_unique<MemoryFileSystem>(); }, false}),
                         [](const testing::TestParamInfo<Backend>& info) { return info.param.name; });

TEST(PathTest, JoinPathPutsOneSlash) {
  EXPECT_EQ(JoinPath("a", "b/c"), "a/b/c");
  EXPECT_EQ(JoinPath("a/", "b"), "a/b");
  EXPECT_EQ(JoinPath("/", "b"), "/b");
  EXPECT_EQ(JoinPath("", "b"), "b");
  EXPECT_EQ(JoinPath("a", ""), "a");
}

TEST(PathTest, BaseNameIsTheLastComponent) {
  EXPECT_EQ(BaseName("a/b/"), "b");
  EXPECT_EQ(BaseName("a"), "a");
  EXPECT_EQ(BaseName("/a"), "a");
  EXPECT_EQ(BaseName("/"), "/");
}

TEST(PathTest, DirNameIsTheRest) {
  EXPECT_EQ(DirName("a/b/"), "a");
  EXPECT_EQ(DirName("b"), ".");
  EXPECT_EQ(DirName("/b"), "/");
  EXPECT_EQ(DirName("/"), "/");
  EXPECT_EQ(DirName("a//b"), "a");
}

}  // namespace
}  // namespace waypoint
