#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <limits>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/checkpointer/checkpointer.h"
#include "checkpoint/storage/fault_file_system.h"
#include "checkpoint/storage/memory_file_system.h"
#include "checkpoint/storage/staged_directory.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/memory_source.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_directory.h"

namespace waypoint {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

MemorySource State() {
  MemorySource state;
  state.Add<float>("weight", DType::kF32, {2, 3}, {1, 2, 3, 4, 5, 6});
  return state;
}

CheckpointMetadata AtStep(int64_t step) {
  CheckpointMetadata metadata;
  metadata.mutable_training()->set_step(step);
  return metadata;
}

absl::StatusOr<SaveReport> SaveStep(FileSystem& fs, int64_t step, const Retention& retention,
                                    absl::optional<double> loss = absl::nullopt) {
  MemorySource state = State();
  CheckpointMetadata metadata = AtStep(step);
  if (loss.has_value()) {
    (*metadata.mutable_training()->mutable_metrics())["loss"] = *loss;
  }
  CheckpointerOptions options;
  options.retention = retention;
  return CheckpointRoot(fs, "/root").Save(options, metadata, state);
}

std::vector<int64_t> Steps(FileSystem& fs) {
  std::vector<int64_t> steps;
  const auto list = CheckpointRoot(fs, "/root").List();
  EXPECT_OK(list);
  for (const CheckpointRef& ref : *list) {
    steps.push_back(ref.step);
  }
  return steps;
}

Retention Keep(int64_t keep) {
  Retention retention;
  retention.keep = keep;
  return retention;
}

Retention KeepBest(int64_t best) {
  Retention retention = Keep(1);
  retention.keep_best = best;
  retention.best_metric = "loss";
  return retention;
}

TEST(CheckpointRootTest, KeepsTheNewestAndTellsWhatItDeleted) {
  MemoryFileSystem fs;
  ASSERT_OK(SaveStep(fs, 1, Keep(2)));
  ASSERT_OK(SaveStep(fs, 2, Keep(2)));

  ASSERT_OK_AND_ASSIGN(const SaveReport report, SaveStep(fs, 3, Keep(2)));

  EXPECT_THAT(report.deleted, ElementsAre("/root/step-00000001"));
  EXPECT_THAT(report.warnings, IsEmpty());
  EXPECT_THAT(Steps(fs), ElementsAre(2, 3));
}

TEST(CheckpointRootTest, KeepsTheBestByTheMetricInTheCheckpoint) {
  MemoryFileSystem fs;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  ASSERT_OK(SaveStep(fs, 1, KeepBest(2), 0.0));
  ASSERT_OK(SaveStep(fs, 2, KeepBest(2), 5.0));
  ASSERT_OK(SaveStep(fs, 3, KeepBest(2), nan));
  ASSERT_OK(SaveStep(fs, 4, KeepBest(2)));
  ASSERT_OK(SaveStep(fs, 5, KeepBest(2), 1.0));

  ASSERT_OK(SaveStep(fs, 6, KeepBest(2), 7.0));

  EXPECT_THAT(Steps(fs), ElementsAre(1, 5, 6));
}

TEST(CheckpointRootTest, ASaveThatWasNotScheduledStaysWhereThatIsAskedWhateverTheIntervalIsLater) {
  MemoryFileSystem fs;
  for (const bool scheduled : {true, false}) {
    MemorySource state = State();
    CheckpointMetadata metadata = AtStep(scheduled ? 1 : 2);
    metadata.mutable_training()->set_scheduled(scheduled);
    ASSERT_OK(CheckpointRoot(fs, "/root").Save({}, metadata, state));
  }

  Retention retention = Keep(1);
  retention.keep_unscheduled = true;
  ASSERT_OK(SaveStep(fs, 3, retention));
  EXPECT_THAT(Steps(fs), ElementsAre(2, 3));

  ASSERT_OK(SaveStep(fs, 4, Keep(1)));
  EXPECT_THAT(Steps(fs), ElementsAre(4));
}

TEST(CheckpointRootTest, ACheckpointWhoseMetricsCannotBeReadStays) {
  MemoryFileSystem fs;
  ASSERT_OK(SaveStep(fs, 1, KeepBest(1), 0.5));
  ASSERT_OK(SaveStep(fs, 2, KeepBest(1), 9.0));
  ASSERT_OK_AND_ASSIGN(const std::vector<DirectoryEntry> files, fs.List("/root/step-00000001"));
  for (const DirectoryEntry& file : files) {
    if (absl::EndsWith(file.name, ".safetensors")) {
      ASSERT_OK(fs.RemoveFile(JoinPath("/root/step-00000001", file.name)));
    }
  }

  ASSERT_OK_AND_ASSIGN(const SaveReport report, SaveStep(fs, 3, KeepBest(1), 8.0));

  EXPECT_THAT(report.warnings, ElementsAre(AllOf(HasSubstr("step-00000001"), HasSubstr("cannot be opened"))));
  EXPECT_THAT(report.deleted, ElementsAre("/root/step-00000002"));
  ASSERT_OK_AND_ASSIGN(const bool there, Exists(fs, "/root/step-00000001"));
  EXPECT_TRUE(there);
}

// Loses its weights, and keeps the manifest by which it is known.
void LoseWeights(FileSystem& fs, const std::string& path) {
  ASSERT_OK_AND_ASSIGN(const std::vector<DirectoryEntry> files, fs.List(path));
  for (const DirectoryEntry& file : files) {
    if (absl::EndsWith(file.name, ".safetensors")) {
      ASSERT_OK(fs.RemoveFile(JoinPath(path, file.name)));
    }
  }
}

TEST(CheckpointRootTest, ASaveThatCannotBeOpenedPushesOutNoneThatCan) {
  MemoryFileSystem fs;
  for (int64_t step = 1; step <= 4; ++step) {
    ASSERT_OK(SaveStep(fs, step, {}));
  }
  LoseWeights(fs, "/root/step-00000003");
  LoseWeights(fs, "/root/step-00000004");

  ASSERT_OK_AND_ASSIGN(const SaveReport report, SaveStep(fs, 5, Keep(2)));

  EXPECT_THAT(report.deleted, ElementsAre("/root/step-00000001"));
  EXPECT_THAT(report.warnings, ElementsAre(AllOf(HasSubstr("step-00000003"), HasSubstr("cannot be opened")),
                                           AllOf(HasSubstr("step-00000004"), HasSubstr("cannot be opened"))));
  EXPECT_THAT(Steps(fs), ElementsAre(2, 3, 4, 5));
}

// Fails to read what lies below one directory.
class UnreadableDirectory : public MemoryFileSystem {
 public:
  absl::StatusOr<std::unique_ptr<ReadableFile>> OpenForRead(const std::string& path,
                                                            const OpenOptions& options) override {
    return Hit(path) ? absl::StatusOr<std::unique_ptr<ReadableFile>>(error)
                     : MemoryFileSystem::OpenForRead(path, options);
  }
  absl::StatusOr<FileInfo> Stat(const std::string& path) override {
    return Hit(path) ? absl::StatusOr<FileInfo>(error) : MemoryFileSystem::Stat(path);
  }

  std::string below;
  absl::Status error;

 private:
  bool Hit(const std::string& path) const { return !below.empty() && absl::StartsWith(path, below + "/"); }
};

TEST(CheckpointRootTest, ANewestThatCannotBeReadIsAnErrorAndNotPassedOver) {
  UnreadableDirectory fs;
  ASSERT_OK(SaveStep(fs, 1, {}));
  ASSERT_OK(SaveStep(fs, 2, {}));
  fs.below = "/root/step-00000002";
  for (const int error : {EIO, EACCES, ESTALE, ENOMEM}) {
    fs.error = ErrnoError(error, "open of a file");
    EXPECT_THAT(CheckpointRoot(fs, "/root").Latest(),
                IsKind(error == ENOMEM ? ErrorKind::kNoMemory : ErrorKind::kIo, HasSubstr("step-00000002")))
        << error;
  }

  // Nothing old is deleted while nobody knows what there is.
  const auto report = SaveStep(fs, 3, Keep(1));
  ASSERT_OK(report);
  EXPECT_THAT(report->warnings, ElementsAre(HasSubstr("nothing old is deleted")));
  fs.below.clear();
  EXPECT_THAT(Steps(fs), ElementsAre(1, 2, 3));
}

TEST(CheckpointRootTest, WhatAKilledSaveLeftIsRemovedWithItsLockAndDurably) {
  MemoryFileSystem fs;
  ASSERT_OK(MakeDirectories(fs, "/root"));
  ASSERT_OK(fs.MakeDirectory("/root/.step-00000007.tmp-0"));
  ASSERT_OK(WriteSmallFile(fs, "/root/.step-00000007.tmp-0/part", "x"));
  ASSERT_OK(WriteSmallFile(fs, "/root/.step-00000007.tmp-lock", "pid 1"));
  ASSERT_OK(WriteSmallFile(fs, "/root/.step-00000008.tmp-lock", "pid 1"));
  ASSERT_OK(fs.MakeDirectory("/root/.trash-step-00000001"));
  ASSERT_OK(fs.MakeDirectory("/root/.step-other.tmp-0"));

  ASSERT_OK_AND_ASSIGN(const SaveReport report, SaveStep(fs, 9, {}));

  EXPECT_THAT(report.warnings, IsEmpty());
  const std::unique_ptr<MemoryFileSystem> durable = fs.Crash(DiskState::kOnlySynced);
  ASSERT_OK_AND_ASSIGN(const std::vector<DirectoryEntry> entries, durable->List("/root"));
  std::vector<std::string> names;
  for (const DirectoryEntry& entry : entries) {
    names.push_back(entry.name);
  }
  // The lock of the save itself is gone, but not yet for a power loss: the next save removes it.
  EXPECT_THAT(names, ElementsAre(".lock", ".step-00000009.tmp-lock", ".step-other.tmp-0", "step-00000009"));
  EXPECT_FALSE(Exists(fs, "/root/.step-00000009.tmp-lock").value());
}

TEST(CheckpointRootTest, AStageThatSomebodyWritesStays) {
  MemoryFileSystem fs;
  StageOptions options;
  ASSERT_OK_AND_ASSIGN(const auto staged, StagedDirectory::Create(fs, "/root/step-00000007", options));
  ASSERT_OK(WriteSmallFile(fs, JoinPath(staged->path(), "part"), "x"));

  ASSERT_OK_AND_ASSIGN(const SaveReport report, SaveStep(fs, 9, {}));

  EXPECT_THAT(report.warnings, IsEmpty());
  ASSERT_OK(staged->Publish());
  EXPECT_TRUE(Exists(fs, "/root/step-00000007/part").value());
}

TEST(CheckpointRootTest, ADeletionThatFailsIsAWarningOfASaveThatIsPublished) {
  // All calls of the same two saves, so that the deletion's are known.
  MemoryFileSystem rehearsal;
  ASSERT_OK(SaveStep(rehearsal, 1, Keep(1)));
  FaultFileSystem counting(rehearsal);
  ASSERT_OK(SaveStep(counting, 2, Keep(1)));
  const std::vector<FileCall> trace = counting.trace();
  int64_t first = -1;
  for (size_t i = 0; i < trace.size(); ++i) {
    if (trace[i].kind == FileCall::kRename && absl::StrContains(trace[i].to, ".trash-")) {
      first = static_cast<int64_t>(i);
    }
  }
  ASSERT_GT(first, 0);

  for (int64_t k = first; k < counting.calls(); ++k) {
    MemoryFileSystem memory;
    ASSERT_OK(SaveStep(memory, 1, Keep(1)));
    FaultFileSystem fs(memory, Fault::kEio, k);
    ASSERT_OK_AND_ASSIGN(const SaveReport report, SaveStep(fs, 2, Keep(1)));
    EXPECT_TRUE(fs.fired()) << k;
    EXPECT_THAT(report.warnings, ElementsAre(HasSubstr("step-00000001"))) << k;
    EXPECT_LE(Steps(memory).size(), 2u) << k;

    // The next save clears what was left.
    ASSERT_OK_AND_ASSIGN(const SaveReport next, SaveStep(memory, 3, Keep(1)));
    EXPECT_THAT(next.warnings, IsEmpty()) << k;
    EXPECT_THAT(Steps(memory), ElementsAre(3)) << k;
    ASSERT_OK_AND_ASSIGN(const std::vector<DirectoryEntry> entries, memory.List("/root"));
    for (const DirectoryEntry& entry : entries) {
      EXPECT_FALSE(absl::StartsWith(entry.name, ".trash-")) << k;
    }
  }
}

TEST(CheckpointRootTest, AHeldRootRemovesAfterTheSaveAndTheNextOneReportsAFailure) {
  CheckpointerOptions options;
  options.retention = Keep(1);
  MemorySource state = State();
  int64_t removal = -1;
  for (int attempt = 0; attempt < 2; ++attempt) {
    MemoryFileSystem memory;
    ASSERT_OK(SaveStep(memory, 1, Keep(1)));
    // The first time, to learn which call removes the first file.
    FaultFileSystem fs(memory, attempt == 0 ? Fault::kNone : Fault::kEio, removal);
    CheckpointRoot root(fs, "/root");
    ASSERT_OK(root.Hold());

    ASSERT_OK_AND_ASSIGN(const SaveReport first, root.Save(options, AtStep(2), state));
    EXPECT_THAT(first.deleted, ElementsAre("/root/step-00000001"));
    EXPECT_THAT(first.warnings, IsEmpty());
    ASSERT_OK_AND_ASSIGN(const SaveReport second, root.Save(options, AtStep(3), state));
    EXPECT_THAT(root.Release(), IsEmpty());
    EXPECT_THAT(Steps(memory), ElementsAre(3));

    if (attempt == 0) {
      EXPECT_THAT(second.warnings, IsEmpty());
      const std::vector<FileCall> trace = fs.trace();
      for (size_t i = 0; removal < 0 && i < trace.size(); ++i) {
        if (trace[i].kind == FileCall::kRemoveFile && absl::StrContains(trace[i].path, ".trash-")) {
          removal = static_cast<int64_t>(i);
        }
      }
      ASSERT_GT(removal, 0);
    } else {
      EXPECT_TRUE(fs.fired());
      EXPECT_THAT(second.warnings, ElementsAre(HasSubstr(".trash-step-00000001")));
    }
  }
}

TEST(CheckpointRootTest, LinksToCheckpointsAreFollowedAndOtherOnesNamed) {
  const TempDirectory directory;
  FileSystem& fs = PosixFileSystem();
  const std::string root = directory.Path("root");
  MemorySource state = State();
  for (int64_t step = 1; step <= 2; ++step) {
    ASSERT_OK(CheckpointRoot(fs, root).Save({}, AtStep(step), state));
  }
  // Moved to a larger disk, say.
  ASSERT_OK(fs.Rename(root + "/step-00000002", directory.Path("elsewhere")));
  directory.Link(directory.Path("elsewhere"), "root/step-00000002");
  directory.Link(directory.Path("nothing"), "root/step-00000003");
  directory.Write("root/step-00000004", "a file");
  directory.MakeDirectory("root/step-00000005");
  directory.Link(root, "link_to_root");

  std::vector<PassedOver> passed_over;
  ASSERT_OK_AND_ASSIGN(const auto latest, CheckpointRoot(fs, directory.Path("link_to_root")).Latest(&passed_over));

  ASSERT_TRUE(latest.has_value());
  EXPECT_EQ(latest->step, 2);
  ASSERT_EQ(passed_over.size(), 3u);
  EXPECT_EQ(passed_over[0].checkpoint.step, 3);
  EXPECT_THAT(passed_over[0].why, AllOf(HasSubstr("step-00000003"), HasSubstr("link to nothing")));
  EXPECT_THAT(passed_over[1].why, AllOf(HasSubstr("step-00000004"), HasSubstr("no directory")));
  EXPECT_THAT(passed_over[2].why, AllOf(HasSubstr("step-00000005"), HasSubstr("no sealed checkpoint")));

  // Retention takes the link, and nothing of what it leads to.
  CheckpointerOptions options;
  options.retention = Keep(1);
  ASSERT_OK(CheckpointRoot(fs, root).Save(options, AtStep(6), state));
  EXPECT_TRUE(Exists(fs, directory.Path("elsewhere/manifest.pb")).value());
}

TEST(CheckpointRootTest, ARootThatIsALinkToNothingIsAnError) {
  const TempDirectory directory;
  directory.Link(directory.Path("not_mounted"), "root");

  EXPECT_THAT(CheckpointRoot(PosixFileSystem(), directory.Path("root")).List(),
              IsKind(ErrorKind::kIo, AllOf(HasSubstr("link to nothing"), HasSubstr("mount"))));
}

TEST(CheckpointRootTest, WhatIsSetAsideCountsNoMoreAndReplacesNothing) {
  MemoryFileSystem fs;
  CheckpointRoot root(fs, "/root");
  for (const char* aside : {"/root/step-00000002.damaged", "/root/step-00000002.damaged-2"}) {
    ASSERT_OK(SaveStep(fs, 2, {}));
    EXPECT_EQ(root.SetAside("/root/step-00000002").value(), aside);
    EXPECT_THAT(Steps(fs), IsEmpty());
  }

  std::vector<std::string> names;
  const std::unique_ptr<MemoryFileSystem> durable = fs.Crash(DiskState::kOnlySynced);
  ASSERT_OK_AND_ASSIGN(const std::vector<DirectoryEntry> entries, durable->List("/root"));
  for (const DirectoryEntry& entry : entries) {
    names.push_back(entry.name);
  }
  EXPECT_THAT(names, ElementsAre(".lock", "step-00000002.damaged", "step-00000002.damaged-2"));
}

TEST(CheckpointRootTest, AFailedSaveDeletesNothing) {
  int64_t k = 0;
  for (;; ++k) {
    MemoryFileSystem memory;
    ASSERT_OK(SaveStep(memory, 1, Keep(1)));
    FaultFileSystem fs(memory, Fault::kEio, k);
    const auto report = SaveStep(fs, 2, Keep(1));
    if (report.ok()) {
      break;
    }
    EXPECT_THAT(Steps(memory), ::testing::Contains(1)) << k;
  }
  EXPECT_GT(k, 5);
}

TEST(CheckpointRootTest, AHeldRootRefusesASecondJobBetweenSaves) {
  MemoryFileSystem fs;
  CheckpointRoot root(fs, "/root");
  ASSERT_OK(root.Hold());
  ASSERT_OK(root.Hold());
  MemorySource state = State();
  ASSERT_OK(root.Save({}, AtStep(1), state));

  EXPECT_THAT(SaveStep(fs, 2, {}), IsKind(ErrorKind::kLocked, HasSubstr("another job saves to \"/root\"")));
  EXPECT_THAT(CheckpointRoot(fs, "/root").Hold(), IsKind(ErrorKind::kLocked));
  EXPECT_THAT(Steps(fs), ElementsAre(1));

  root.Release();
  EXPECT_OK(SaveStep(fs, 2, {}));
}

// Tells the parent that its save is under way, then never ends.
class StuckSource : public MemorySource {
 public:
  explicit StuckSource(int ready) : ready_(ready) { Add<float>("weight", DType::kF32, {1}, {1}); }
  absl::Status Read(absl::Span<const ReadRequest>) override {
    if (write(ready_, "r", 1) != 1) {
      _exit(1);
    }
    for (;;) {
      pause();
    }
  }

 private:
  const int ready_;
};

TEST(CheckpointRootTest, ASecondProcessLearnsWhoSavesAndTheLockDiesWithIt) {
  const TempDirectory directory;
  const std::string path = directory.Path("root");
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    StuckSource source(ready[1]);
    CheckpointRoot(PosixFileSystem(), path).Save({}, AtStep(1), source).status().IgnoreError();
    _exit(1);
  }
  char byte;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  char host[256] = "";
  ASSERT_EQ(gethostname(host, sizeof(host) - 1), 0);

  MemorySource state = State();
  EXPECT_THAT(CheckpointRoot(PosixFileSystem(), path).Save({}, AtStep(2), state),
              IsKind(ErrorKind::kLocked, AllOf(HasSubstr(absl::StrCat("pid ", child)), HasSubstr(host),
                                               HasSubstr("since 20"), HasSubstr("s ago"))));

  ASSERT_EQ(kill(child, SIGKILL), 0);
  int status;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  close(ready[0]);
  close(ready[1]);
  ASSERT_OK(CheckpointRoot(PosixFileSystem(), path).Save({}, AtStep(2), state));
  ASSERT_OK_AND_ASSIGN(const auto latest, CheckpointRoot(PosixFileSystem(), path).Latest());
  EXPECT_EQ(latest->step, 2);
}

}  // namespace
}  // namespace waypoint
