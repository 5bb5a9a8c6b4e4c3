// A job of real processes that saves without end while something happens at a random moment: a rank, or all, are killed
// or stopped, rank 0 dies between seal and publish, the disk is full, or a sync fails.  What was published stays
// readable and whole, every survivor ends with an error that names the rank, and the next job in the same directory
// goes on.
//
// The job's directory is a small tmpfs of the test's own where the kernel lets it mount one; elsewhere the disk is
// never full.  RUNS=250 bazel-bin/tests/checkpoint/format/distributed/kill_ranks_test runs each format longer, as for
// kill_ranks_500.log; SEED repeats a run.

#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <iostream>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "checkpoint/base/registry.h"
#include "checkpoint/coordination/c10d/c10d_coordinator.h"
#include "checkpoint/coordination/c10d/c10d_exchange.h"
#include "checkpoint/storage/fault_file_system.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/checkpoint/format/distributed/job.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_directory.h"

namespace waypoint {
namespace {

using ::testing::HasSubstr;

constexpr int kRanks = 3;
constexpr int kFailedExit = 3;

enum Event { kKill, kStop, kKillAll, kStopAll, kDieBeforePublish, kSyncError, kFullDisk };
constexpr const char* kEventNames[] = {
    "kill", "stop", "kill all", "stop all", "die between seal and publish", "fsync fails", "full disk"};

// Memory that the processes share.
struct Shared {
  std::atomic<int> port{0};
  std::atomic<int64_t> published{0};
  // It has happened to the victim's file system.
  std::atomic<bool> now{false};
};

class DyingFile : public WritableFile {
 public:
  DyingFile(std::unique_ptr<WritableFile> base, const Shared* shared) : base_(std::move(base)), shared_(shared) {}
  const std::string& path() const override { return base_->path(); }
  absl::Status Write(int64_t offset, absl::Span<const char> data) override { return base_->Write(offset, data); }
  absl::Status Sync() override {
    return shared_->now ? MakeError(ErrorKind::kIo, absl::StrCat("fsync of \"", path(), "\": injected EIO"))
                        : base_->Sync();
  }
  absl::Status Close() override { return base_->Close(); }

 private:
  const std::unique_ptr<WritableFile> base_;
  const Shared* const shared_;
};

// The victim's, for events that happen at a call.
class VictimFileSystem : public FaultFileSystem {
 public:
  VictimFileSystem(Event event, const Shared* shared)
      : FaultFileSystem(PosixFileSystem()), event_(event), shared_(shared) {}
  absl::StatusOr<std::unique_ptr<WritableFile>> Create(const std::string& path, const CreateOptions& options) override {
    return Dying(PosixFileSystem().Create(path, options));
  }
  absl::StatusOr<std::unique_ptr<WritableFile>> OpenForWrite(const std::string& path,
                                                             const CreateOptions& options) override {
    return Dying(PosixFileSystem().OpenForWrite(path, options));
  }
  absl::Status Rename(const std::string& from, const std::string& to) override {
    if (event_ == kDieBeforePublish && shared_->now && absl::StartsWith(BaseName(from), ".step-")) {
      raise(SIGKILL);
    }
    return PosixFileSystem().Rename(from, to);
  }

 private:
  absl::StatusOr<std::unique_ptr<WritableFile>> Dying(absl::StatusOr<std::unique_ptr<WritableFile>> file) const {
    if (file.ok() && event_ == kSyncError) {
      return std::unique_ptr<WritableFile>(new DyingFile(*std::move(file), shared_));
    }
    return file;
  }

  const Event event_;
  const Shared* const shared_;
};

// A mount of this process and its children alone.
bool MountSmallDisk(const std::string& path) {
  if (unshare(CLONE_NEWNS) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) {
    return false;
  }
  return mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
         mount("waypoint", path.c_str(), "tmpfs", 0, "size=4m") == 0;
}

// Takes all space that is left.
void Fill(const std::string& path) {
  const int file = open(path.c_str(), O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);
  ASSERT_GE(file, 0);
  const std::vector<char> zeros(64 << 10);
  for (size_t piece = zeros.size(); piece > 0; piece /= 2) {
    while (write(file, zeros.data(), piece) > 0) {
    }
  }
  close(file);
}

int64_t FromEnvironment(const char* name, int64_t otherwise) {
  const char* text = std::getenv(name);
  int64_t value = 0;
  return text != nullptr && absl::SimpleAtoi(text, &value) ? value : otherwise;
}

absl::Status RunRank(const std::string& format, int rank, int64_t first_step, FileSystem& fs,
                     const TempDirectory& directory, Shared* shared) {
  C10dOptions options;
  options.rank = rank;
  options.world_size = kRanks;
  options.connect_timeout = absl::Seconds(2);
  options.linger = absl::Seconds(1);
  options.stall_timeout = absl::Milliseconds(500);
  while (rank > 0 && (options.port = shared->port) == 0) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  const auto coordinator = C10dCoordinator::Create(options);
  if (!coordinator.ok()) {
    return coordinator.status();
  }
  shared->port = (*coordinator)->port();
  const auto exchange = C10dExchange::Create(**coordinator, absl::Seconds(5));
  if (!exchange.ok()) {
    return exchange.status();
  }
  for (int64_t step = first_step;; ++step) {
    const std::unique_ptr<MemorySource> state = SmallState(step);
    RankSource mine(*state, TensorParallelZero, rank, kRanks);
    CheckpointerOptions save = DistributedOptions(**coordinator);
    save.format = format;
    save.save.exchange = exchange->get();
    save.save.coordination_timeout = absl::Seconds(1);
    save.retention.keep = 2;
    const auto saved = CheckpointRoot(fs, directory.Path("disk/run")).Save(save, MetadataOf(step), mine);
    if (!saved.ok()) {
      return saved.status();
    }
    shared->published = step;
  }
}

// The newest step, whole.
int64_t CheckLatest(const std::string& format, const TempDirectory& directory) {
  const auto latest = CheckpointRoot(PosixFileSystem(), directory.Path("disk/run")).Latest();
  EXPECT_OK(latest);
  if (!latest.ok() || !latest->has_value()) {
    return 0;
  }
  auto opened = Registry<CheckpointFormat>::Global().Find(format)->Open(PosixFileSystem(), (*latest)->path, {});
  EXPECT_OK(opened);
  if (!opened.ok()) {
    return 0;
  }
  const std::unique_ptr<MemorySource> expected = SmallState((*latest)->step);
  RankSink sink(expected->manifest(), Replicated, 0, 1);
  EXPECT_OK(Restore(*opened, sink, {}));
  EXPECT_EQ(sink.Difference(*expected), "");
  return (*latest)->step;
}

std::string ErrorPath(const TempDirectory& directory, int rank) { return directory.Path(absl::StrCat("error-", rank)); }

// What a rank said before it ended.
std::string ErrorOf(const TempDirectory& directory, int rank) {
  const auto error = ReadSmallFile(PosixFileSystem(), ErrorPath(directory, rank), 1 << 16, "test_bytes");
  EXPECT_OK(error);
  return error.value_or("");
}

class KillRanksTest : public ::testing::TestWithParam<std::string> {};

TEST_P(KillRanksTest, NothingPublishedIsLostAndSurvivorsNameTheRank) {
  const std::string format = GetParam();
  const int64_t runs = FromEnvironment("RUNS", 10);
  const int64_t seed = FromEnvironment("SEED", 1);
  std::mt19937_64 random(seed);
  const TempDirectory directory;
  directory.MakeDirectory("disk");
  const bool small_disk = MountSmallDisk(directory.Path("disk"));
  if (!small_disk) {
    std::cout << "this process may not mount a tmpfs: the disk is never full\n";
  }
  void* memory = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  int64_t step = 0;
  int64_t survivors = 0;
  for (int64_t run = 0; run < runs && !HasFailure(); ++run) {
    const auto event = static_cast<Event>(run % (small_disk ? kFullDisk + 1 : kFullDisk));
    const bool all = event == kKillAll || event == kStopAll;
    // Rank 0 publishes.
    const int victim = event == kDieBeforePublish ? 0 : static_cast<int>(random() % kRanks);
    auto* shared = new (memory) Shared;
    shared->published = step;
    std::vector<pid_t> processes;
    for (int rank = 0; rank < kRanks; ++rank) {
      directory.Remove(absl::StrCat("error-", rank));
      const pid_t process = fork();
      ASSERT_GE(process, 0);
      if (process == 0) {
        VictimFileSystem victims(event, shared);
        FileSystem& fs = rank == victim ? static_cast<FileSystem&>(victims) : PosixFileSystem();
        const absl::Status status = RunRank(format, rank, step + 1, fs, directory, shared);
        WriteSmallFile(PosixFileSystem(), ErrorPath(directory, rank), status.ToString()).IgnoreError();
        _exit(kFailedExit);
      }
      processes.push_back(process);
    }
    const absl::Time give_up = absl::Now() + absl::Seconds(30);
    while (shared->published == step && absl::Now() < give_up) {
      absl::SleepFor(absl::Milliseconds(1));
    }
    ASSERT_GT(shared->published, step) << "the job does not save";
    absl::SleepFor(absl::Microseconds(random() % 60'000));
    const std::string what = absl::StrCat("run ", run, ": ", kEventNames[event], all ? "" : absl::StrCat(" ", victim));
    SCOPED_TRACE(what);
    shared->now = true;
    if (event == kFullDisk) {
      ASSERT_NO_FATAL_FAILURE(Fill(directory.Path("disk/filler")));
    } else if (event != kDieBeforePublish && event != kSyncError) {
      for (int rank = 0; rank < kRanks; ++rank) {
        if (rank == victim || all) {
          kill(processes[rank], event == kKill || event == kKillAll ? SIGKILL : SIGSTOP);
        }
      }
    }
    int full = 0;
    for (int rank = 0; rank < kRanks; ++rank) {
      if (all || (rank == victim && event != kSyncError && event != kFullDisk)) {
        continue;
      }
      // A process that waits for ever is a failure of its own.
      int status = 0;
      while (waitpid(processes[rank], &status, WNOHANG) == 0 && absl::Now() < give_up) {
        if (event == kFullDisk) {
          // A save that was under way frees, when it deletes an old one, as much as the next one needs.
          ASSERT_NO_FATAL_FAILURE(Fill(directory.Path("disk/filler")));
        }
        absl::SleepFor(absl::Milliseconds(5));
      }
      EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == kFailedExit) << "rank " << rank << ": " << status;
      processes[rank] = 0;
      ++survivors;
      const std::string error = ErrorOf(directory, rank);
      if (event == kFullDisk) {
        // Its own, or another's by name.
        const bool own = !absl::StrContains(error, "E_RANK");
        full += own ? 1 : 0;
        EXPECT_THAT(error, HasSubstr(own ? "E_NO_SPACE" : "rank "));
      } else if (rank == victim) {
        EXPECT_THAT(error, HasSubstr("injected EIO"));
      } else {
        EXPECT_THAT(error, HasSubstr(absl::StrCat("rank ", victim)));
      }
    }
    EXPECT_EQ(full > 0, event == kFullDisk);
    for (const pid_t process : processes) {
      if (process != 0) {
        kill(process, SIGKILL);
        waitpid(process, nullptr, 0);
      }
    }
    directory.Remove("disk/filler");
    const int64_t found = CheckLatest(format, directory);
    EXPECT_GE(found, shared->published);
    std::cout << what << ", published " << shared->published << ", found " << found << "\n";
    step = found;
  }
  munmap(memory, sizeof(Shared));
  std::cout << runs << " runs with seed " << seed << ", " << survivors << " survivors, last step " << step << "\n";
  if (small_disk) {
    EXPECT_EQ(umount(directory.Path("disk").c_str()), 0);
  }
}

// Each rank its own file; and all ranks common files, which takes an exchange of tensors.
INSTANTIATE_TEST_SUITE_P(Formats, KillRanksTest, ::testing::Values("distributed", "native"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace waypoint
