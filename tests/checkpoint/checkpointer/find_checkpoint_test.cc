// Which checkpoint is meant by a directory around it.

#include <string>

#include "checkpoint/base/error.h"
#include "checkpoint/checkpointer/checkpointer.h"
#include "checkpoint/storage/memory_file_system.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/memory_source.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_directory.h"

namespace waypoint {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class FindCheckpointTest : public ::testing::Test {
 protected:
  // A native checkpoint.
  void Save(const std::string& path) {
    MemorySource state;
    state.Add("a", DType::kF32, {2}, std::vector<float>{1, 2});
    ASSERT_OK(WriteCheckpoint(fs_, path, {}, {}, state, {}));
  }

  // Of a run: checkpoints 10 and 20.
  void SaveRun() {
    Save("/run/checkpoint/step-00000010");
    Save("/run/checkpoint/step-00000020");
    Save("/run/export/llama/step-00000020");
  }

  void ExpectTaken(const std::string& given, const std::string& taken) {
    for (const char* const format : {"auto", "native"}) {
      ASSERT_OK_AND_ASSIGN(const FoundCheckpoint found, FindCheckpoint(fs_, given, format));
      EXPECT_EQ(found.path, taken);
      EXPECT_EQ(found.format->name(), "native");
      EXPECT_THAT(found.notes, Contains(AllOf(HasSubstr("took"), HasSubstr(taken))));
    }
  }

  MemoryFileSystem fs_;
};

TEST_F(FindCheckpointTest, ACheckpointIsItself) {
  Save("/c");
  ASSERT_OK_AND_ASSIGN(const FoundCheckpoint found, FindCheckpoint(fs_, "/c", "auto"));
  EXPECT_EQ(found.path, "/c");
  EXPECT_THAT(found.notes, IsEmpty());
}

TEST_F(FindCheckpointTest, TheNewestOfARunIsTaken) {
  SaveRun();
  ExpectTaken("/run", "/run/checkpoint/step-00000020");
  ExpectTaken("/run/checkpoint", "/run/checkpoint/step-00000020");
}

TEST_F(FindCheckpointTest, TheNewestSealedOneIsTaken) {
  SaveRun();
  ASSERT_OK(MakeDirectories(fs_, "/run/checkpoint/step-00000030"));
  ExpectTaken("/run", "/run/checkpoint/step-00000020");
  ASSERT_OK_AND_ASSIGN(const FoundCheckpoint found, FindCheckpoint(fs_, "/run", "auto"));
  EXPECT_THAT(found.notes, Contains(HasSubstr("step-00000030")));
}

TEST_F(FindCheckpointTest, TheNewestExportIsTaken) {
  SaveRun();
  Save("/run/export/llama/step-00000005");
  ExpectTaken("/run/export/llama", "/run/export/llama/step-00000020");
  ExpectTaken("/run/export", "/run/export/llama/step-00000020");
  ASSERT_OK(RemoveTree(fs_, "/run/checkpoint"));
  ExpectTaken("/run", "/run/export/llama/step-00000020");
  Save("/run/export/reference/step-00000001");
  EXPECT_THAT(FindCheckpoint(fs_, "/run/export", "auto"),
              IsKind(ErrorKind::kAmbiguous, AllOf(HasSubstr("llama/step-00000020"), HasSubstr("reference"))));
}

TEST_F(FindCheckpointTest, TheOnlySnapshotOfTheHubsCacheIsTaken) {
  Save("/models--a--b/snapshots/0123");
  ExpectTaken("/models--a--b", "/models--a--b/snapshots/0123");
  Save("/models--a--b/snapshots/4567");
  ASSERT_OK(MakeDirectories(fs_, "/models--a--b/refs"));
  EXPECT_THAT(FindCheckpoint(fs_, "/models--a--b", "auto"),
              IsKind(ErrorKind::kUnsupported, AllOf(HasSubstr("snapshots/0123"), HasSubstr("snapshots/4567"))));
}

TEST_F(FindCheckpointTest, WhatIsNoCheckpointIsNamed) {
  ASSERT_OK(MakeDirectories(fs_, "/d"));
  ASSERT_OK(WriteSmallFile(fs_, "/d/__0_0.distcp", "x"));
  EXPECT_THAT(FindCheckpoint(fs_, "/d", "auto"), IsKind(ErrorKind::kUnsupported, HasSubstr("dcp_to_torch")));
  for (const char* const format : {"auto", "native"}) {
    EXPECT_THAT(FindCheckpoint(fs_, "/d/__0_0.distcp", format), IsKind(ErrorKind::kIo, HasSubstr("no directory")));
    EXPECT_THAT(FindCheckpoint(fs_, "/gone", format), IsKind(ErrorKind::kIo, HasSubstr("\"/gone\"")));
  }
  EXPECT_THAT(FindCheckpoint(fs_, "/d", "gguf"), IsKind(ErrorKind::kRequest));
}

TEST_F(FindCheckpointTest, CheckpointsInADirectoryAndAroundAFileAreNamed) {
  Save("/models/small");
  Save("/models/large");
  ASSERT_OK(WriteSmallFile(fs_, "/models/expected.safetensors", "x"));
  EXPECT_THAT(FindCheckpoint(fs_, "/models", "auto"),
              IsKind(ErrorKind::kUnsupported, HasSubstr("give \"/models/large\" or \"/models/small\"")));
  EXPECT_THAT(FindCheckpoint(fs_, "/models/small/model.safetensors", "auto"),
              IsKind(ErrorKind::kIo, HasSubstr("give \"/models/small\"")));
}

// Of a run whose folders are elsewhere.
TEST_F(FindCheckpointTest, LinksToFoldersAreFollowedAndFilesAreNoFolders) {
  FileSystem& fs = PosixFileSystem();
  TempDirectory directory;
  MemorySource state;
  state.Add("a", DType::kF32, {2}, std::vector<float>{1, 2});
  ASSERT_OK(WriteCheckpoint(fs, directory.Path("disk/step-00000001"), {}, {}, state, {}));
  directory.MakeDirectory("run");
  directory.Write("log", "x");
  directory.Link("../log", "run/log");
  directory.Link("../disk", "run/checkpoint");

  ASSERT_OK_AND_ASSIGN(const FoundCheckpoint found, FindCheckpoint(fs, directory.Path("run"), "auto"));

  EXPECT_EQ(found.path, directory.Path("run/checkpoint/step-00000001"));
}

TEST_F(FindCheckpointTest, ALinkThatLeadsNowhereIsNamed) {
  TempDirectory directory;
  directory.Link("gone", "latest");
  EXPECT_THAT(FindCheckpoint(PosixFileSystem(), directory.Path("latest"), "auto"),
              IsKind(ErrorKind::kIo, HasSubstr("leads nowhere")));
}

}  // namespace
}  // namespace waypoint
