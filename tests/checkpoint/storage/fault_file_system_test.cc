#include "checkpoint/storage/fault_file_system.h"

#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "checkpoint/base/error.h"
#include "checkpoint/storage/memory_file_system.h"
#include "checkpoint/storage/publish_order.h"

namespace waypoint {
namespace {

constexpr int64_t kCreateCall = 0;
constexpr int64_t kWriteCall = 1;
constexpr int64_t kSyncCall = 2;
constexpr int64_t kCloseCall = 3;

absl::Status WriteSix(FileSystem& fs) { return WriteSmallFile(fs, "f", "123456"); }

std::string Get(FileSystem& fs) {
  const auto contents = ReadSmallFile(fs, "f", 100, "test_bytes");
  return contents.ok() ? *contents : "absent";
}

TEST(FaultFileSystemTest, WithoutAFaultAllWorksAndIsRecorded) {
  MemoryFileSystem memory;
  FaultFileSystem fs(memory);

  ASSERT_TRUE(WriteSix(fs).ok());

  EXPECT_EQ(Get(memory), "123456");
  EXPECT_EQ(fs.calls(), 4);
  EXPECT_FALSE(fs.fired());
  ASSERT_EQ(fs.trace().size(), 4u);
  EXPECT_EQ(fs.trace()[2].kind, FileCall::kSync);
  EXPECT_EQ(fs.trace()[2].path, "f");
  EXPECT_TRUE(fs.trace()[2].ok);
}

TEST(FaultFileSystemTest, KillBeforeHasNoEffectAndEndsEverything) {
  MemoryFileSystem memory;
  FaultFileSystem fs(memory, Fault::kKillBefore, kWriteCall);

  EXPECT_TRUE(IsKilledError(WriteSix(fs)));

  EXPECT_EQ(Get(memory), "");
  EXPECT_TRUE(IsKilledError(fs.RemoveFile("f")));
  EXPECT_TRUE(IsKilledError(fs.Stat("f").status()));
  EXPECT_EQ(Get(memory), "");
}

TEST(FaultFileSystemTest, KillAfterLeavesTheEffect) {
  MemoryFileSystem memory;
  FaultFileSystem fs(memory, Fault::kKillAfter, kWriteCall);

  EXPECT_TRUE(IsKilledError(WriteSix(fs)));

  EXPECT_EQ(Get(memory), "123456");
}

TEST(FaultFileSystemTest, FullDisksAndQuotasAreNoSpace) {
  for (const Fault fault : {Fault::kEnospc, Fault::kEdquot, Fault::kFullDisk}) {
    MemoryFileSystem memory;
    FaultFileSystem fs(memory, fault, kWriteCall);

    EXPECT_EQ(GetErrorKind(WriteSix(fs)), ErrorKind::kNoSpace);
    EXPECT_EQ(fs.MakeDirectory("d").ok(), fault != Fault::kFullDisk);
    EXPECT_TRUE(fs.RemoveFile("f").ok());
  }
}

TEST(FaultFileSystemTest, ShortWriteLeavesAPart) {
  MemoryFileSystem memory;
  FaultFileSystem one(memory, Fault::kShortWriteOne, kWriteCall);
  EXPECT_EQ(GetErrorKind(WriteSix(one)), ErrorKind::kNoSpace);
  EXPECT_EQ(Get(memory), "1");

  ASSERT_TRUE(memory.RemoveFile("f").ok());
  FaultFileSystem most(memory, Fault::kShortWriteMost, kWriteCall);
  EXPECT_EQ(GetErrorKind(WriteSix(most)), ErrorKind::kNoSpace);
  EXPECT_EQ(Get(memory), "12345");
}

TEST(FaultFileSystemTest, SyncAfterAFailedSyncLies) {
  MemoryFileSystem memory;
  FaultFileSystem fs(memory, Fault::kSyncEio, kSyncCall);
  auto file = fs.Create("f", CreateOptions());
  ASSERT_TRUE(file.ok());
  ASSERT_TRUE((*file)->Write(0, absl::MakeConstSpan("123456", 6)).ok());

  EXPECT_EQ(GetErrorKind((*file)->Sync()), ErrorKind::kIo);
  EXPECT_TRUE((*file)->Sync().ok());

  ASSERT_TRUE(memory.SyncDirectory("/").ok());
  EXPECT_EQ(Get(*memory.Crash(DiskState::kOnlySynced)), "");
}

TEST(FaultFileSystemTest, OtherFaultsFailTheirCalls) {
  MemoryFileSystem memory;
  EXPECT_TRUE(
      absl::StrContains(WriteSix(*std::make_unique<FaultFileSystem>(memory, Fault::kEmfile, kCreateCall)).message(),
                        "Too many open files"));
  FaultFileSystem close(memory, Fault::kCloseEio, kCloseCall);
  EXPECT_EQ(GetErrorKind(WriteSix(close)), ErrorKind::kIo);
  EXPECT_EQ(Get(memory), "123456");
  FaultFileSystem rename(memory, Fault::kRenameExdev, 0);
  EXPECT_EQ(GetErrorKind(rename.Rename("f", "g")), ErrorKind::kIo);
  FaultFileSystem unlink(memory, Fault::kUnlinkEbusy, 0);
  EXPECT_EQ(GetErrorKind(unlink.RemoveFile("f")), ErrorKind::kIo);
  FaultFileSystem exchange(memory, Fault::kExchangeMissing, 0);
  EXPECT_EQ(GetErrorKind(exchange.Exchange("f", "f")), ErrorKind::kUnsupported);
  EXPECT_EQ(Get(memory), "123456");
}

TEST(FaultFileSystemTest, FaultOfAnotherKindOfCallDoesNotFire) {
  MemoryFileSystem memory;
  FaultFileSystem fs(memory, Fault::kSyncEio, kWriteCall);

  EXPECT_TRUE(WriteSix(fs).ok());
  EXPECT_FALSE(fs.fired());
}

// --- CheckPublishOrder ---

FileCall Call(FileCall::Kind kind, const std::string& path, const std::string& to = "") {
  return FileCall{kind, path, to, true};
}

std::vector<FileCall> GoodTrace() {
  return {Call(FileCall::kMakeDirectory, "o/tmp"),
          Call(FileCall::kMakeDirectory, "o/tmp/sub"),
          Call(FileCall::kCreate, "o/tmp/sub/f"),
          Call(FileCall::kWrite, "o/tmp/sub/f"),
          Call(FileCall::kSync, "o/tmp/sub/f"),
          Call(FileCall::kClose, "o/tmp/sub/f"),
          Call(FileCall::kSyncDirectory, "o/tmp/sub"),
          Call(FileCall::kSyncDirectory, "o/tmp"),
          Call(FileCall::kRename, "o/tmp", "o/published"),
          Call(FileCall::kSyncDirectory, "o")};
}

TEST(CheckPublishOrderTest, GoodTracePasses) { EXPECT_TRUE(CheckPublishOrder(GoodTrace()).ok()); }

TEST(CheckPublishOrderTest, EveryMissingSyncIsFound) {
  int syncs = 0;
  for (size_t i = 0; i < GoodTrace().size(); ++i) {
    std::vector<FileCall> trace = GoodTrace();
    if (trace[i].kind == FileCall::kSync || trace[i].kind == FileCall::kSyncDirectory) {
      ++syncs;
      trace[i].ok = false;
      EXPECT_FALSE(CheckPublishOrder(trace).ok()) << "failed call " << i;
      trace.erase(trace.begin() + i);
      EXPECT_FALSE(CheckPublishOrder(trace).ok()) << "missing call " << i;
    }
  }
  EXPECT_EQ(syncs, 4);
}

TEST(CheckPublishOrderTest, WriteAfterTheSyncIsFound) {
  std::vector<FileCall> trace = GoodTrace();
  trace.insert(trace.begin() + 7, Call(FileCall::kWrite, "o/tmp/sub/f"));

  const absl::Status status = CheckPublishOrder(trace);
  EXPECT_TRUE(absl::StrContains(status.message(), "o/tmp/sub/f")) << status;
}

TEST(CheckPublishOrderTest, RemovalAfterTheDirectorySyncIsFound) {
  std::vector<FileCall> trace = GoodTrace();
  trace.insert(trace.begin() + 8, Call(FileCall::kRemoveFile, "o/tmp/lock"));

  EXPECT_FALSE(CheckPublishOrder(trace).ok());
}

TEST(CheckPublishOrderTest, UnsyncedFileElsewhereDoesNotMatter) {
  std::vector<FileCall> trace = GoodTrace();
  trace.insert(trace.begin(), Call(FileCall::kCreate, "o/tmp2"));

  EXPECT_TRUE(CheckPublishOrder(trace).ok());
}

TEST(CheckPublishOrderTest, ExchangeMovesBothWays) {
  std::vector<FileCall> trace = GoodTrace();
  trace[8].kind = FileCall::kExchange;
  EXPECT_TRUE(CheckPublishOrder(trace).ok());

  trace.insert(trace.begin(), Call(FileCall::kCreate, "o/published/f"));
  EXPECT_FALSE(CheckPublishOrder(trace).ok());
}

}  // namespace
}  // namespace waypoint
