#include "checkpoint/storage/memory_file_system.h"

#include <gtest/gtest.h>

namespace waypoint {
namespace {

std::string Get(FileSystem& fs, const std::string& path) {
  const auto contents = ReadSmallFile(fs, path, 1 << 20, "test_bytes");
  return contents.ok() ? *contents : "absent";
}

void Write(FileSystem& fs, const std::string& path, const std::string& contents, bool sync) {
  auto file = fs.Create(path, CreateOptions());
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_TRUE((*file)->Write(0, absl::MakeConstSpan(contents.data(), contents.size())).ok());
  if (sync) {
    ASSERT_TRUE((*file)->Sync().ok());
  }
  ASSERT_TRUE((*file)->Close().ok());
}

TEST(MemoryFileSystemTest, SyncedFileInASyncedDirectorySurvivesEveryState) {
  MemoryFileSystem fs;
  Write(fs, "a", "data", true);
  ASSERT_TRUE(fs.SyncDirectory("/").ok());

  for (const DiskState state : kAllDiskStates) {
    for (int index = 0; index < fs.CrashCount(state); ++index) {
      EXPECT_EQ(Get(*fs.Crash(state, index), "a"), "data") << static_cast<int>(state);
    }
  }
}

TEST(MemoryFileSystemTest, SyncedFileWithoutItsDirectoryEntryIsGone) {
  MemoryFileSystem fs;
  Write(fs, "a", "data", true);

  EXPECT_EQ(Get(*fs.Crash(DiskState::kEverything), "a"), "data");
  EXPECT_EQ(Get(*fs.Crash(DiskState::kOnlySynced), "a"), "absent");
  EXPECT_EQ(Get(*fs.Crash(DiskState::kDataOnly), "a"), "absent");
  EXPECT_EQ(Get(*fs.Crash(DiskState::kNamesOnly), "a"), "data");
}

TEST(MemoryFileSystemTest, UnsyncedDataOfADurableNameIsLost) {
  MemoryFileSystem fs;
  Write(fs, "a", "data", false);
  ASSERT_TRUE(fs.SyncDirectory("/").ok());

  EXPECT_EQ(Get(*fs.Crash(DiskState::kEverything), "a"), "data");
  EXPECT_EQ(Get(*fs.Crash(DiskState::kOnlySynced), "a"), "");
  EXPECT_EQ(Get(*fs.Crash(DiskState::kZeroedData), "a"), std::string(4, '\0'));
  EXPECT_EQ(Get(*fs.Crash(DiskState::kNamesOnly), "a"), "");
  EXPECT_EQ(Get(*fs.Crash(DiskState::kDataOnly), "a"), "data");
}

TEST(MemoryFileSystemTest, EachUnsyncedFileIsDroppedAlone) {
  MemoryFileSystem fs;
  Write(fs, "a", "1", false);
  Write(fs, "b", "2", false);

  ASSERT_EQ(fs.CrashCount(DiskState::kOneFileDropped), 2);
  EXPECT_EQ(Get(*fs.Crash(DiskState::kOneFileDropped, 0), "a"), "");
  EXPECT_EQ(Get(*fs.Crash(DiskState::kOneFileDropped, 0), "b"), "2");
  EXPECT_EQ(Get(*fs.Crash(DiskState::kOneFileDropped, 1), "a"), "1");
  EXPECT_EQ(Get(*fs.Crash(DiskState::kOneFileDropped, 1), "b"), "");
}

TEST(MemoryFileSystemTest, LastWriteIsTornAtThreePlaces) {
  MemoryFileSystem fs;
  Write(fs, "first", std::string(10000, 'x'), false);
  Write(fs, "last", std::string(10000, 'x'), false);

  ASSERT_EQ(fs.CrashCount(DiskState::kTornWrite), 3);
  EXPECT_EQ(Get(*fs.Crash(DiskState::kTornWrite, 0), "last").size(), 512u);
  EXPECT_EQ(Get(*fs.Crash(DiskState::kTornWrite, 1), "last").size(), 4096u);
  EXPECT_EQ(Get(*fs.Crash(DiskState::kTornWrite, 2), "last").size(), 5000u);
  EXPECT_EQ(Get(*fs.Crash(DiskState::kTornWrite, 0), "first").size(), 10000u);
}

TEST(MemoryFileSystemTest, LaterOperationOfAnotherFileOvertakes) {
  MemoryFileSystem fs;
  ASSERT_TRUE(fs.MakeDirectory("a").ok());
  ASSERT_TRUE(fs.MakeDirectory("b").ok());
  ASSERT_TRUE(fs.MakeDirectory("c").ok());

  ASSERT_EQ(fs.CrashCount(DiskState::kReordered), 4);
  const auto after = fs.Crash(DiskState::kReordered, 1);
  EXPECT_TRUE(*Exists(*after, "a"));
  EXPECT_FALSE(*Exists(*after, "b"));
  EXPECT_TRUE(*Exists(*after, "c"));
  EXPECT_FALSE(*Exists(*fs.Crash(DiskState::kReordered, 2), "c"));
  EXPECT_TRUE(*Exists(*fs.Crash(DiskState::kReordered, 3), "c"));
}

TEST(MemoryFileSystemTest, OperationsOfOneFileStayInOrder) {
  MemoryFileSystem fs;
  ASSERT_TRUE(fs.MakeDirectory("a").ok());
  ASSERT_TRUE(fs.Rename("a", "b").ok());

  const auto after = fs.Crash(DiskState::kReordered, 0);
  EXPECT_FALSE(*Exists(*after, "a"));
  EXPECT_FALSE(*Exists(*after, "b"));
}

TEST(MemoryFileSystemTest, RenameIsDurableWholeOrNotAtAll) {
  MemoryFileSystem fs;
  Write(fs, "old", "1", true);
  Write(fs, "new", "2", true);
  ASSERT_TRUE(fs.SyncDirectory("/").ok());
  ASSERT_TRUE(fs.Rename("new", "old").ok());

  EXPECT_EQ(Get(*fs.Crash(DiskState::kOnlySynced), "old"), "1");
  EXPECT_EQ(Get(*fs.Crash(DiskState::kOnlySynced), "new"), "2");
  ASSERT_TRUE(fs.SyncDirectory("/").ok());
  EXPECT_EQ(Get(*fs.Crash(DiskState::kOnlySynced), "old"), "2");
  EXPECT_EQ(Get(*fs.Crash(DiskState::kOnlySynced), "new"), "absent");
}

TEST(MemoryFileSystemTest, RemovalIsDurableAfterTheDirectorySync) {
  MemoryFileSystem fs;
  Write(fs, "a", "1", true);
  ASSERT_TRUE(fs.SyncDirectory("/").ok());
  ASSERT_TRUE(fs.RemoveFile("a").ok());

  EXPECT_EQ(Get(*fs.Crash(DiskState::kOnlySynced), "a"), "1");
  ASSERT_TRUE(fs.SyncDirectory("/").ok());
  EXPECT_EQ(Get(*fs.Crash(DiskState::kOnlySynced), "a"), "absent");
}

TEST(MemoryFileSystemTest, CrashLeavesTheLivingOneAloneAndDropsLocks) {
  MemoryFileSystem fs;
  const auto lock = fs.Lock("lock");
  ASSERT_TRUE(lock.ok());
  Write(fs, "a", "1", false);

  const auto after = fs.Crash(DiskState::kEverything);
  ASSERT_TRUE(after->RemoveFile("a").ok());

  EXPECT_TRUE(after->Lock("lock").ok());
  EXPECT_FALSE(fs.Lock("lock").ok());
  EXPECT_EQ(Get(fs, "a"), "1");
}

TEST(MemoryFileSystemTest, DirectoryIsNotRenamedBelowItself) {
  MemoryFileSystem fs;
  ASSERT_TRUE(fs.MakeDirectory("a").ok());

  EXPECT_FALSE(fs.Rename("a", "a/b").ok());
  EXPECT_TRUE(*Exists(fs, "a"));
}

}  // namespace
}  // namespace waypoint
