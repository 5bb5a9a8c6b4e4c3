// Every fault at every call of a save, every state of the disk after it: the target is the old directory or the new
// one, whole, and the next save works and cleans up.

#include <gtest/gtest.h>

#include <iostream>
#include <map>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/storage/fault_file_system.h"
#include "checkpoint/storage/memory_file_system.h"
#include "checkpoint/storage/publish_order.h"
#include "checkpoint/storage/staged_directory.h"

namespace waypoint {
namespace {

using Contents = std::map<std::string, std::string>;

constexpr char kTarget[] = "/out/model";

// Larger than the sizes at which writes are torn.
Contents Checkpoint(const std::string& tag) {
  return {{"weights", std::string(9000, tag[0])}, {"sub/part", tag + std::string(700, 'p')}, {"manifest", tag}};
}

absl::Status Save(FileSystem& fs, const Contents& contents) {
  StageOptions options;
  options.overwrite = true;
  WAYPOINT_ASSIGN_OR_RETURN(std::unique_ptr<StagedDirectory> staged, StagedDirectory::Create(fs, kTarget, options));
  WAYPOINT_RETURN_IF_ERROR(fs.MakeDirectory(JoinPath(staged->path(), "sub")));
  for (const auto& file : contents) {
    WAYPOINT_ASSIGN_OR_RETURN(std::unique_ptr<WritableFile> out,
                              fs.Create(JoinPath(staged->path(), file.first), CreateOptions()));
    const int64_t half = file.second.size() / 2;
    const absl::Span<const char> data(file.second.data(), file.second.size());
    WAYPOINT_RETURN_IF_ERROR(out->Write(half, data.subspan(half)));
    WAYPOINT_RETURN_IF_ERROR(out->Write(0, data.first(half)));
    WAYPOINT_RETURN_IF_ERROR(out->Sync());
    WAYPOINT_RETURN_IF_ERROR(out->Close());
  }
  return staged->Publish();
}

void ReadTree(FileSystem& fs, const std::string& path, const std::string& prefix, Contents& contents) {
  const auto entries = fs.List(path);
  ASSERT_TRUE(entries.ok()) << entries.status();
  for (const DirectoryEntry& entry : *entries) {
    const std::string name = prefix + entry.name;
    if (entry.type == FileType::kDirectory) {
      ReadTree(fs, JoinPath(path, entry.name), name + "/", contents);
    } else {
      const auto file = ReadSmallFile(fs, JoinPath(path, entry.name), 1 << 20, "test_bytes");
      ASSERT_TRUE(file.ok()) << file.status();
      contents[name] = *file;
    }
  }
}

// Empty when the target is not there.
Contents Target(FileSystem& fs) {
  Contents contents;
  const auto exists = Exists(fs, kTarget);
  EXPECT_TRUE(exists.ok()) << exists.status();
  if (exists.ok() && *exists) {
    ReadTree(fs, kTarget, "", contents);
    EXPECT_FALSE(contents.empty()) << "an empty target is visible";
  }
  return contents;
}

// The sweep for a target that exists or not before the save.
class CrashTest : public testing::TestWithParam<bool> {
 protected:
  std::unique_ptr<MemoryFileSystem> Start() const {
    auto memory = std::make_unique<MemoryFileSystem>();
    EXPECT_TRUE(MakeDirectories(*memory, "/out").ok());
    if (GetParam()) {
      EXPECT_TRUE(Save(*memory, old_).ok());
    }
    return memory->Crash(DiskState::kOnlySynced);
  }

  // True when the target is one of the two, and the new one if it must be.
  void Check(MemoryFileSystem& fs, bool saved) {
    const Contents found = Target(fs);
    ASSERT_TRUE(found == new_ || (!saved && found == old_)) << (found.empty() ? "target is gone" : "target is mixed");
    ++recoveries_;
  }

  void CheckNextSave(MemoryFileSystem& fs) {
    const absl::Status status = Save(fs, next_);
    ASSERT_TRUE(status.ok()) << status;
    ASSERT_TRUE(Target(fs) == next_);
    const auto left = fs.List("/out");
    ASSERT_TRUE(left.ok());
    ASSERT_EQ(left->size(), 1u) << left->front().name;
  }

  const Contents old_ = GetParam() ? Checkpoint("old") : Contents();
  const Contents new_ = Checkpoint("new");
  const Contents next_ = Checkpoint("zzz");
  int recoveries_ = 0;
};

TEST_P(CrashTest, OldOrNewIsWholeAfterAnyFaultAtAnyCall) {
  int faults = 0;
  for (const Fault fault : kAllFaults) {
    bool reached = true;
    for (int64_t k = 0; reached; ++k) {
      const std::unique_ptr<MemoryFileSystem> memory = Start();
      FaultFileSystem fs(*memory, fault, k);
      const absl::Status status = Save(fs, new_);
      reached = fs.calls() > k;
      if (!fs.fired()) {
        continue;
      }
      ++faults;
      SCOPED_TRACE(absl::StrCat(FaultName(fault), " at call ", k, " of ", fs.calls(), ": ", status.ToString()));

      // Those who look now, and a save right after.
      ASSERT_NO_FATAL_FAILURE(Check(*memory, status.ok()));
      const bool killed = fault == Fault::kKillBefore || fault == Fault::kKillAfter;
      if (!status.ok() && !killed) {
        ASSERT_TRUE(Target(*memory) == old_) << "a failed save changed the target";
        EXPECT_FALSE(IsKilledError(status));
      }

      // Those who look after a power loss.
      for (const DiskState state : kAllDiskStates) {
        for (int index = 0; index < memory->CrashCount(state); ++index) {
          SCOPED_TRACE(absl::StrCat("disk state ", static_cast<int>(state), ", index ", index));
          const std::unique_ptr<MemoryFileSystem> after = memory->Crash(state, index);
          ASSERT_NO_FATAL_FAILURE(Check(*after, status.ok()));
          ASSERT_NO_FATAL_FAILURE(CheckNextSave(*after));
        }
      }
      ASSERT_NO_FATAL_FAILURE(CheckNextSave(*memory));
    }
  }
  std::cout << faults << " faults, " << recoveries_ << " recoveries\n";
  EXPECT_GT(faults, 120);
  EXPECT_GT(recoveries_, 2000);
}

// The clean-up of a killed save is killed too, at every call, and then the power fails.
TEST_P(CrashTest, OldOrNewIsWholeAfterASecondKillDuringCleanUp) {
  for (int64_t first = 0;; ++first) {
    const std::unique_ptr<MemoryFileSystem> memory = Start();
    {
      FaultFileSystem fs(*memory, Fault::kKillAfter, first);
      Save(fs, new_).IgnoreError();
      if (!fs.fired()) {
        break;
      }
    }
    for (const DiskState state : {DiskState::kEverything, DiskState::kOnlySynced}) {
      for (int64_t second = 0;; ++second) {
        const std::unique_ptr<MemoryFileSystem> again = memory->Crash(state);
        FaultFileSystem fs(*again, Fault::kKillAfter, second);
        const absl::Status status = Save(fs, new_);
        if (!fs.fired()) {
          break;
        }
        SCOPED_TRACE(absl::StrCat("kills at ", first, " and ", second));
        for (int index = 0; index < again->CrashCount(DiskState::kReordered); ++index) {
          const std::unique_ptr<MemoryFileSystem> after = again->Crash(DiskState::kReordered, index);
          ASSERT_NO_FATAL_FAILURE(Check(*after, status.ok()));
        }
        ASSERT_NO_FATAL_FAILURE(CheckNextSave(*again));
      }
    }
  }
  EXPECT_GT(recoveries_, 1000);
}

// The process dies, a second one finds what it left, dies in turn, and only then the power fails: what the first one
// renamed may not be on the disk yet when the second one cleans up.
TEST_P(CrashTest, OldOrNewIsWholeAfterTwoKillsAndAPowerLoss) {
  bool first_reached = true;
  for (int64_t first = 0; first_reached; ++first) {
    bool second_reached = true;
    for (int64_t second = 0; first_reached && second_reached; ++second) {
      const std::unique_ptr<MemoryFileSystem> memory = Start();
      FaultFileSystem first_process(*memory, Fault::kKillAfter, first);
      Save(first_process, new_).IgnoreError();
      first_reached = first_process.fired();
      FaultFileSystem second_process(*memory, Fault::kKillAfter, second);
      Save(second_process, new_).IgnoreError();
      second_reached = second_process.fired();
      SCOPED_TRACE(absl::StrCat("kills at ", first, " and ", second));
      for (const DiskState state : {DiskState::kEverything, DiskState::kOnlySynced, DiskState::kReordered}) {
        for (int index = 0; index < memory->CrashCount(state); ++index) {
          SCOPED_TRACE(absl::StrCat("disk state ", static_cast<int>(state), ", index ", index));
          ASSERT_NO_FATAL_FAILURE(Check(*memory->Crash(state, index), false));
        }
      }
    }
  }
  EXPECT_GT(recoveries_, 1000);
}

TEST_P(CrashTest, SaveObeysTheOrderOfSyncs) {
  const std::unique_ptr<MemoryFileSystem> memory = Start();
  FaultFileSystem fs(*memory);
  ASSERT_TRUE(Save(fs, new_).ok());

  EXPECT_TRUE(CheckPublishOrder(fs.trace()).ok()) << CheckPublishOrder(fs.trace());
}

// The sweep is worth nothing unless it catches a save that skips a sync.
TEST_P(CrashTest, WithoutFileSyncsTheStatesAreNotWhole) {
  const std::unique_ptr<MemoryFileSystem> memory = Start();
  StageOptions options;
  options.overwrite = true;
  {
    auto staged = StagedDirectory::Create(*memory, kTarget, options);
    ASSERT_TRUE(staged.ok());
    auto out = memory->Create(JoinPath((*staged)->path(), "weights"), CreateOptions());
    ASSERT_TRUE(out.ok());
    ASSERT_TRUE((*out)->Write(0, absl::MakeConstSpan("123456", 6)).ok());
    ASSERT_TRUE((*staged)->Publish().ok());
  }

  for (const DiskState state : {DiskState::kOnlySynced, DiskState::kZeroedData, DiskState::kOneFileDropped,
                                DiskState::kTornWrite, DiskState::kNamesOnly}) {
    const int index = state == DiskState::kTornWrite ? 2 : 0;
    EXPECT_NE(Target(*memory->Crash(state, index))["weights"], "123456") << static_cast<int>(state);
  }
}

INSTANTIATE_TEST_SUITE_P(Target, CrashTest, testing::Bool(),
                         [](const testing::TestParamInfo<bool>& info) { return info.param ? "Replaced" : "New"; });

}  // namespace
}  // namespace waypoint
