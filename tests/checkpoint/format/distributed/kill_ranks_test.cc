// A job of real processes that saves without end while one of them, or all, are killed or stopped at a random moment.
// What was published stays readable and whole, every survivor ends with an error that names the rank, and the next job
// in the same directory goes on.
//
// RUNS=500 bazel-bin/tests/checkpoint/format/distributed/kill_ranks_test runs it longer; SEED repeats a run.

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <iostream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "checkpoint/base/registry.h"
#include "checkpoint/coordination/c10d/c10d_coordinator.h"
#include "checkpoint/coordination/c10d/c10d_exchange.h"
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

// Memory that the processes share.
struct Shared {
  std::atomic<int> port{0};
  std::atomic<int64_t> published{0};
};

int64_t FromEnvironment(const char* name, int64_t otherwise) {
  const char* text = std::getenv(name);
  int64_t value = 0;
  return text != nullptr && absl::SimpleAtoi(text, &value) ? value : otherwise;
}

absl::Status RunRank(const std::string& format, int rank, int64_t first_step, const TempDirectory& directory,
                     Shared* shared) {
  C10dOptions options;
  options.rank = rank;
  options.world_size = kRanks;
  options.connect_timeout = absl::Seconds(2);
  options.linger = absl::Seconds(1);
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
    const auto saved = CheckpointRoot(PosixFileSystem(), directory.Path("run")).Save(save, MetadataOf(step), mine);
    if (!saved.ok()) {
      return saved.status();
    }
    shared->published = step;
  }
}

// The newest step, whole.
int64_t CheckLatest(const std::string& format, const TempDirectory& directory) {
  const auto latest = CheckpointRoot(PosixFileSystem(), directory.Path("run")).Latest();
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

class KillRanksTest : public ::testing::TestWithParam<std::string> {};

TEST_P(KillRanksTest, NothingPublishedIsLostAndSurvivorsNameTheRank) {
  const std::string format = GetParam();
  const int64_t runs = FromEnvironment("RUNS", 6);
  const int64_t seed = FromEnvironment("SEED", 1);
  std::mt19937_64 random(seed);
  const TempDirectory directory;
  void* memory = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  int64_t step = 0;
  int64_t survivors = 0;
  for (int64_t run = 0; run < runs && !HasFailure(); ++run) {
    auto* shared = new (memory) Shared;
    shared->published = step;
    std::vector<pid_t> processes;
    for (int rank = 0; rank < kRanks; ++rank) {
      directory.Remove(absl::StrCat("error-", rank));
      const pid_t process = fork();
      ASSERT_GE(process, 0);
      if (process == 0) {
        const absl::Status status = RunRank(format, rank, step + 1, directory, shared);
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
    const int victim = static_cast<int>(random() % (kRanks + 1));  // kRanks: all
    const int signal = random() % 3 == 0 ? SIGSTOP : SIGKILL;
    for (int rank = 0; rank < kRanks; ++rank) {
      if (victim == rank || victim == kRanks) {
        kill(processes[rank], signal);
      }
    }
    SCOPED_TRACE(
        absl::StrCat("run ", run, ": signal ", signal, " to ", victim == kRanks ? "all" : absl::StrCat(victim)));
    for (int rank = 0; rank < kRanks; ++rank) {
      if (victim == rank || victim == kRanks) {
        continue;
      }
      // A process that waits for ever is a failure of its own.
      int status = 0;
      while (waitpid(processes[rank], &status, WNOHANG) == 0 && absl::Now() < give_up) {
        absl::SleepFor(absl::Milliseconds(5));
      }
      EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == kFailedExit) << "rank " << rank << ": " << status;
      ++survivors;
      const auto error = ReadSmallFile(PosixFileSystem(), ErrorPath(directory, rank), 1 << 16, "test_bytes");
      EXPECT_OK(error);
      EXPECT_THAT(error.value_or(""), HasSubstr(absl::StrCat("rank ", victim)));
    }
    for (int rank = 0; rank < kRanks; ++rank) {
      if (victim == rank || victim == kRanks) {
        kill(processes[rank], SIGKILL);
        waitpid(processes[rank], nullptr, 0);
      }
    }
    const int64_t found = CheckLatest(format, directory);
    EXPECT_GE(found, shared->published);
    step = found;
  }
  munmap(memory, sizeof(Shared));
  std::cout << runs << " runs with seed " << seed << ", " << survivors << " survivors, last step " << step << "\n";
}

// Each rank its own file; and all ranks common files, which takes an exchange of tensors.
INSTANTIATE_TEST_SUITE_P(Formats, KillRanksTest, ::testing::Values("distributed", "native"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace waypoint
