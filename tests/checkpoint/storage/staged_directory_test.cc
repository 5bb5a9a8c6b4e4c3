#include "checkpoint/storage/staged_directory.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>

#include "absl/strings/match.h"
#include "checkpoint/base/error.h"
#include "checkpoint/storage/fault_file_system.h"
#include "checkpoint/storage/memory_file_system.h"
#include "checkpoint/storage/publish_order.h"

namespace waypoint {
namespace {

StageOptions Overwrite() {
  StageOptions options;
  options.overwrite = true;
  return options;
}

std::string Names(FileSystem& fs, const std::string& path) {
  const auto entries = fs.List(path);
  std::string names;
  if (entries.ok()) {
    for (const DirectoryEntry& entry : *entries) {
      names += entry.name + " ";
    }
  }
  return names;
}

std::string Get(FileSystem& fs, const std::string& path) {
  const auto contents = ReadSmallFile(fs, path, 1 << 20, "test_bytes");
  return contents.ok() ? *contents : std::string(contents.status().message());
}

TEST(StagedDirectoryTest, PublishedFilesAppearAtTheTarget) {
  MemoryFileSystem fs;
  auto staged = StagedDirectory::Create(fs, "out/deep/model/", StageOptions());
  ASSERT_TRUE(staged.ok()) << staged.status();
  EXPECT_EQ((*staged)->path(), "out/deep/.model.tmp-0");
  ASSERT_TRUE(WriteSmallFile(fs, JoinPath((*staged)->path(), "a"), "1").ok());

  EXPECT_FALSE(*Exists(fs, "out/deep/model"));
  ASSERT_TRUE((*staged)->Publish().ok());
  staged->reset();

  EXPECT_EQ(Get(fs, "out/deep/model/a"), "1");
  EXPECT_EQ(Names(fs, "out/deep"), "model ");
  EXPECT_EQ(Names(fs, "out/deep/model"), "a ");
}

TEST(StagedDirectoryTest, UnpublishedStageLeavesNothing) {
  MemoryFileSystem fs;
  {
    auto staged = StagedDirectory::Create(fs, "out/model", StageOptions());
    ASSERT_TRUE(staged.ok());
    ASSERT_TRUE(WriteSmallFile(fs, JoinPath((*staged)->path(), "a"), "1").ok());
  }

  EXPECT_EQ(Names(fs, "out"), "");
}

TEST(StagedDirectoryTest, ExistingTargetNeedsOverwrite) {
  MemoryFileSystem fs;
  ASSERT_TRUE(MakeDirectories(fs, "out/model").ok());

  EXPECT_EQ(GetErrorKind(StagedDirectory::Create(fs, "out/model", StageOptions()).status()), ErrorKind::kExists);
  EXPECT_EQ(Names(fs, "out"), "model ");
}

TEST(StagedDirectoryTest, TargetMadeMeanwhileIsNotReplaced) {
  MemoryFileSystem fs;
  auto staged = StagedDirectory::Create(fs, "out/model", StageOptions());
  ASSERT_TRUE(staged.ok());
  ASSERT_TRUE(fs.MakeDirectory("out/model").ok());

  EXPECT_EQ(GetErrorKind((*staged)->Publish()), ErrorKind::kExists);
}

TEST(StagedDirectoryTest, FileIsNeverOverwritten) {
  MemoryFileSystem fs;
  ASSERT_TRUE(WriteSmallFile(fs, "model", "precious").ok());

  EXPECT_EQ(GetErrorKind(StagedDirectory::Create(fs, "model", Overwrite()).status()), ErrorKind::kExists);
  EXPECT_EQ(Get(fs, "model"), "precious");
}

TEST(StagedDirectoryTest, RootAndParentAreRefused) {
  MemoryFileSystem fs;

  EXPECT_EQ(GetErrorKind(StagedDirectory::Create(fs, "/", Overwrite()).status()), ErrorKind::kRequest);
  EXPECT_EQ(GetErrorKind(StagedDirectory::Create(fs, "missing/..", StageOptions()).status()), ErrorKind::kExists);
}

TEST(StagedDirectoryTest, OverwriteReplacesAndRemovesTheOldOne) {
  MemoryFileSystem fs;
  ASSERT_TRUE(MakeDirectories(fs, "out/model/sub").ok());
  ASSERT_TRUE(WriteSmallFile(fs, "out/model/sub/old", "1").ok());
  auto staged = StagedDirectory::Create(fs, "out/model", Overwrite());
  ASSERT_TRUE(staged.ok()) << staged.status();
  ASSERT_TRUE(WriteSmallFile(fs, JoinPath((*staged)->path(), "new"), "2").ok());

  EXPECT_EQ(Names(fs, "out/model"), "sub ");
  ASSERT_TRUE((*staged)->Publish().ok());
  staged->reset();

  EXPECT_EQ(Names(fs, "out"), "model ");
  EXPECT_EQ(Names(fs, "out/model"), "new ");
}

TEST(StagedDirectoryTest, SecondLiveWriterIsLockedOut) {
  MemoryFileSystem fs;
  auto first = StagedDirectory::Create(fs, "out/model", StageOptions());
  ASSERT_TRUE(first.ok());

  EXPECT_EQ(GetErrorKind(StagedDirectory::Create(fs, "out/model", StageOptions()).status()), ErrorKind::kLocked);
  EXPECT_TRUE(StagedDirectory::Create(fs, "out/other", StageOptions()).ok());
  EXPECT_TRUE(*Exists(fs, (*first)->path()));
}

TEST(StagedDirectoryTest, StaleStagesAreRemovedAndOthersKept) {
  MemoryFileSystem fs;
  ASSERT_TRUE(MakeDirectories(fs, "out/.model.tmp-0/sub").ok());
  ASSERT_TRUE(MakeDirectories(fs, "out/.model.tmp-17").ok());
  ASSERT_TRUE(MakeDirectories(fs, "out/.model.tmp-x").ok());
  ASSERT_TRUE(MakeDirectories(fs, "out/.model2.tmp-0").ok());
  ASSERT_TRUE(WriteSmallFile(fs, "out/.model.tmp-lock", "pid 1 on nowhere").ok());

  ASSERT_TRUE(StagedDirectory::Create(fs, "out/model", StageOptions()).ok());

  EXPECT_EQ(Names(fs, "out"), ".model.tmp-x .model2.tmp-0 ");
}

TEST(StagedDirectoryTest, MissingExchangeIsReportedBeforeAnythingIsWritten) {
  MemoryFileSystem memory;
  ASSERT_TRUE(MakeDirectories(memory, "out/model").ok());
  const int64_t exchange_call = 3;  // lock, stage, probe, exchange
  FaultFileSystem fs(memory, Fault::kExchangeMissing, exchange_call);

  const auto staged = StagedDirectory::Create(fs, "out/model", Overwrite());

  EXPECT_EQ(GetErrorKind(staged.status()), ErrorKind::kUnsupported);
  EXPECT_TRUE(absl::StrContains(staged.status().message(), "write to another directory")) << staged.status();
  EXPECT_EQ(Names(memory, "out"), "model ");
}

TEST(StagedDirectoryTest, PublishObeysTheOrderOfSyncs) {
  for (const bool overwrite : {false, true}) {
    MemoryFileSystem memory;
    FaultFileSystem fs(memory);
    if (overwrite) {
      ASSERT_TRUE(MakeDirectories(memory, "out/model").ok());
      ASSERT_TRUE(WriteSmallFile(memory, "out/model/old", "1").ok());
    }
    auto staged = StagedDirectory::Create(fs, "out/model", Overwrite());
    ASSERT_TRUE(staged.ok());
    ASSERT_TRUE(fs.MakeDirectory(JoinPath((*staged)->path(), "sub")).ok());
    ASSERT_TRUE(WriteSmallFile(fs, JoinPath((*staged)->path(), "sub/a"), "1").ok());
    ASSERT_TRUE((*staged)->Publish().ok());

    EXPECT_TRUE(CheckPublishOrder(fs.trace()).ok()) << CheckPublishOrder(fs.trace());
  }
}

// The kernel's file system: exchange, locks and links for real.
class PosixStageTest : public testing::Test {
 protected:
  void SetUp() override {
    const char* tmp = std::getenv("TEST_TMPDIR");
    root_ = JoinPath(tmp == nullptr ? "/tmp" : tmp, "staged_directory_test");
    ASSERT_TRUE(RemoveTree(fs_, root_).ok());
    ASSERT_TRUE(MakeDirectories(fs_, JoinPath(root_, "real/model")).ok());
    ASSERT_TRUE(WriteSmallFile(fs_, JoinPath(root_, "real/model/old"), "1").ok());
  }
  void TearDown() override { EXPECT_TRUE(RemoveTree(fs_, root_).ok()); }

  FileSystem& fs_ = PosixFileSystem();
  std::string root_;
};

TEST_F(PosixStageTest, LinkToADirectoryIsReplacedWhereItPoints) {
  ASSERT_EQ(symlink("real/model", JoinPath(root_, "link").c_str()), 0);
  auto staged = StagedDirectory::Create(fs_, JoinPath(root_, "link"), Overwrite());
  ASSERT_TRUE(staged.ok()) << staged.status();
  ASSERT_TRUE(WriteSmallFile(fs_, JoinPath((*staged)->path(), "new"), "2").ok());
  const absl::Status published = (*staged)->Publish();
  ASSERT_TRUE(published.ok()) << published;
  staged->reset();

  EXPECT_EQ(Names(fs_, JoinPath(root_, "link")), "new ");
  EXPECT_EQ(Names(fs_, JoinPath(root_, "real")), "model ");
  EXPECT_EQ(Names(fs_, root_), "link real ");
}

TEST_F(PosixStageTest, LinkToNothingIsRefused) {
  ASSERT_EQ(symlink("nowhere", JoinPath(root_, "link").c_str()), 0);

  EXPECT_EQ(GetErrorKind(StagedDirectory::Create(fs_, JoinPath(root_, "link"), Overwrite()).status()),
            ErrorKind::kPath);
  EXPECT_EQ(Names(fs_, root_), "link real ");
}

TEST_F(PosixStageTest, SecondLiveWriterIsLockedOut) {
  auto first = StagedDirectory::Create(fs_, JoinPath(root_, "real/model"), Overwrite());
  ASSERT_TRUE(first.ok()) << first.status();

  EXPECT_EQ(GetErrorKind(StagedDirectory::Create(fs_, JoinPath(root_, "real/model"), Overwrite()).status()),
            ErrorKind::kLocked);
}

}  // namespace
}  // namespace waypoint
