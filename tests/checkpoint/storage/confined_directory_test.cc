#include "checkpoint/storage/confined_directory.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_directory.h"

namespace waypoint {
namespace {

using ::testing::HasSubstr;

ConfinedDirectory Open(const std::string& path) { return ConfinedDirectory::Open(PosixFileSystem(), path).value(); }

TEST(ConfinedDirectoryTest, PlainFilesAreTheirOwnPaths) {
  const TempDirectory directory;
  directory.Write("a", "x");

  const ConfinedDirectory files = Open(directory.path());

  EXPECT_TRUE(files.Has("a"));
  EXPECT_FALSE(files.Has("b"));
  EXPECT_EQ(files.Resolve("a").value(), directory.Path("a"));
  EXPECT_THAT(files.Resolve("b"), IsKind(ErrorKind::kIo, HasSubstr("does not exist")));
}

TEST(ConfinedDirectoryTest, AbsentDirectoryIsAnError) {
  const TempDirectory directory;
  EXPECT_THAT(ConfinedDirectory::Open(PosixFileSystem(), directory.Path("none")), IsKind(ErrorKind::kIo));
  directory.Write("file", "x");
  EXPECT_THAT(ConfinedDirectory::Open(PosixFileSystem(), directory.Path("file")), IsKind(ErrorKind::kIo));
}

TEST(ConfinedDirectoryTest, TheDirectoryMayBeALink) {
  const TempDirectory directory;
  directory.MakeDirectory("real");
  directory.Write("real/a", "x");
  directory.Link("a", "real/b");
  directory.Link("real", "link");

  const ConfinedDirectory files = Open(directory.Path("link"));

  EXPECT_OK(files.Resolve("a"));
  EXPECT_EQ(files.Resolve("b").value(), directory.Path("real/a"));
}

TEST(ConfinedDirectoryTest, LinksMayNotLeave) {
  const TempDirectory directory;
  directory.MakeDirectory("model");
  directory.MakeDirectory("model2");
  directory.Write("secret", "x");
  directory.Write("model2/secret", "x");
  directory.Link("../secret", "model/up");
  directory.Link(directory.Path("secret"), "model/absolute");
  directory.Link("/etc/passwd", "model/passwd");
  directory.Link("../model2/secret", "model/sibling");
  directory.Link("up", "model/twice");

  const ConfinedDirectory files = Open(directory.Path("model"));

  for (const char* name : {"up", "absolute", "passwd", "sibling", "twice"}) {
    EXPECT_THAT(files.Resolve(name), IsKind(ErrorKind::kPath, HasSubstr("outside of the directory"))) << name;
  }
}

TEST(ConfinedDirectoryTest, LinksMayStayInside) {
  const TempDirectory directory;
  directory.MakeDirectory("model/sub");
  directory.Write("model/sub/a", "x");
  directory.Link("sub/a", "model/b");

  EXPECT_EQ(Open(directory.Path("model")).Resolve("b").value(), directory.Path("model/sub/a"));
}

TEST(ConfinedDirectoryTest, HubCacheLinksLeadToBlobs) {
  const TempDirectory directory;
  directory.MakeDirectory("models--o--m/snapshots/abc");
  directory.MakeDirectory("models--o--m/blobs/deep");
  directory.MakeDirectory("models--o--m/refs");
  directory.MakeDirectory("models--o--other/blobs");
  directory.Write("models--o--m/blobs/0123", "x");
  directory.Write("models--o--m/blobs/deep/0123", "x");
  directory.Write("models--o--m/refs/main", "abc");
  directory.Write("models--o--other/blobs/0123", "x");
  directory.Link("../../blobs/0123", "models--o--m/snapshots/abc/good");
  directory.Link("../../blobs/deep/0123", "models--o--m/snapshots/abc/deep");
  directory.Link("../../refs/main", "models--o--m/snapshots/abc/refs");
  directory.Link("../../../models--o--other/blobs/0123", "models--o--m/snapshots/abc/other");

  const ConfinedDirectory files = Open(directory.Path("models--o--m/snapshots/abc"));

  EXPECT_EQ(files.Resolve("good").value(), directory.Path("models--o--m/blobs/0123"));
  for (const char* name : {"deep", "refs", "other"}) {
    EXPECT_THAT(files.Resolve(name), IsKind(ErrorKind::kPath)) << name;
  }
}

// Meta's own files are in a folder of the snapshot.
TEST(ConfinedDirectoryTest, FoldersOfAHubSnapshotLeadToItsBlobs) {
  const TempDirectory directory;
  directory.MakeDirectory("blobs");
  directory.MakeDirectory("m/blobs/deep");
  directory.MakeDirectory("m/snapshots/abc/original/mp16");
  directory.MakeDirectory("m/snapshots/blobs");
  directory.Write("blobs/0123", "x");
  directory.Write("m/blobs/0123", "x");
  directory.Write("m/blobs/deep/0123", "x");
  directory.Write("m/snapshots/blobs/0123", "x");
  directory.Write("m/snapshots/abc/config.json", "x");
  directory.Link("../../../blobs/0123", "m/snapshots/abc/original/good");
  directory.Link("../../../../blobs/0123", "m/snapshots/abc/original/mp16/good");
  directory.Link("../../../blobs/deep/0123", "m/snapshots/abc/original/deep");
  directory.Link("../../../../blobs/0123", "m/snapshots/abc/original/outside");
  directory.Link("../../blobs/0123", "m/snapshots/abc/original/wrong");
  directory.Link("../config.json", "m/snapshots/abc/original/up");

  const ConfinedDirectory files = Open(directory.Path("m/snapshots/abc/original"));

  EXPECT_EQ(files.Resolve("good").value(), directory.Path("m/blobs/0123"));
  EXPECT_EQ(Open(directory.Path("m/snapshots/abc/original/mp16")).Resolve("good").value(),
            directory.Path("m/blobs/0123"));
  for (const char* name : {"deep", "outside", "wrong", "up"}) {
    EXPECT_THAT(files.Resolve(name), IsKind(ErrorKind::kPath)) << name;
  }
}

TEST(ConfinedDirectoryTest, BlobsCountOnlyBesideSnapshots) {
  const TempDirectory directory;
  directory.MakeDirectory("m/other/abc");
  directory.MakeDirectory("m/blobs");
  directory.Write("m/blobs/0123", "x");
  directory.Link("../../blobs/0123", "m/other/abc/a");

  EXPECT_THAT(Open(directory.Path("m/other/abc")).Resolve("a"), IsKind(ErrorKind::kPath));
}

TEST(ConfinedDirectoryTest, OnlyRegularFilesAreFiles) {
  const TempDirectory directory;
  directory.MakeDirectory("sub");
  directory.Fifo("fifo");
  directory.Link("fifo", "to_fifo");
  directory.Link(".", "to_itself");
  directory.Link("sub", "to_directory");
  directory.Link("loop", "loop");
  directory.Link("nowhere", "dangling");

  const ConfinedDirectory files = Open(directory.path());

  for (const char* name : {"sub", "fifo", "to_fifo", "to_itself", "to_directory", "loop", "dangling"}) {
    EXPECT_THAT(files.Resolve(name), IsKind(ErrorKind::kIo)) << name;
  }
}

}  // namespace
}  // namespace waypoint
