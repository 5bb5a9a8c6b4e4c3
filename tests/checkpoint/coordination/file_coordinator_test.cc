#include "checkpoint/coordination/file_coordinator.h"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>

#include "absl/strings/match.h"
#include "checkpoint/storage/memory_file_system.h"
#include "tests/checkpoint/coordination/conformance.h"
#include "tests/testing/temp_directory.h"

namespace waypoint {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

FileCoordinatorOptions OptionsOf(int rank, int world_size, const std::string& directory) {
  FileCoordinatorOptions options;
  options.rank = rank;
  options.world_size = world_size;
  options.directory = directory;
  options.join_timeout = absl::Seconds(20);
  options.linger = absl::Seconds(2);
  return options;
}

std::vector<absl::StatusOr<std::unique_ptr<FileCoordinator>>> JoinAll(FileSystem& fs, int world_size,
                                                                      const std::string& directory) {
  std::vector<absl::StatusOr<std::unique_ptr<FileCoordinator>>> ranks(world_size);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < world_size; ++rank) {
    threads.emplace_back(
        [&, rank] { ranks[rank] = FileCoordinator::Create(fs, OptionsOf(rank, world_size, directory)); });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  return ranks;
}

std::vector<std::unique_ptr<Coordinator>> NewIn(FileSystem& fs, int world_size, const std::string& directory) {
  std::vector<std::unique_ptr<Coordinator>> ranks;
  for (auto& rank : JoinAll(fs, world_size, directory)) {
    EXPECT_OK(rank);
    ranks.push_back(*std::move(rank));
  }
  return ranks;
}

std::vector<std::unique_ptr<Coordinator>> NewOnDisk(int world_size) {
  static TempDirectory* const directory = new TempDirectory;
  static int jobs = 0;
  return NewIn(PosixFileSystem(), world_size, directory->Path(absl::StrCat("job", jobs++)));
}

std::vector<std::unique_ptr<Coordinator>> NewInMemory(int world_size) {
  static MemoryFileSystem* const fs = new MemoryFileSystem;
  static int jobs = 0;
  return NewIn(*fs, world_size, absl::StrCat("/job", jobs++));
}

INSTANTIATE_TEST_SUITE_P(Disk, CoordinatorConformanceTest, ::testing::Values(NewOnDisk));
INSTANTIATE_TEST_SUITE_P(Memory, CoordinatorConformanceTest, ::testing::Values(NewInMemory));

TEST(FileCoordinatorTest, NothingIsLeftBehind) {
  MemoryFileSystem fs;
  {
    auto ranks = NewIn(fs, 3, "/job");
    std::vector<std::thread> threads;
    for (auto& rank : ranks) {
      threads.emplace_back([&rank] {
        EXPECT_OK(rank->Barrier("work", absl::Seconds(20)));
        rank.reset();
      });
    }
    for (std::thread& thread : threads) {
      thread.join();
    }
  }

  EXPECT_THAT(fs.List("/").value(), IsEmpty());
}

TEST(FileCoordinatorTest, FilesOfACrashedJobAreNotMistakenForThisOne) {
  MemoryFileSystem before;
  // A job of three, after a power loss in its middle: announcements, a session, messages, and no locks.
  auto crashed = NewIn(before, 3, "/job");
  std::thread early([&] { crashed[1]->Barrier("first", absl::Milliseconds(50)).IgnoreError(); });
  early.join();
  const std::unique_ptr<MemoryFileSystem> fs = before.Crash(DiskState::kEverything);
  EXPECT_THAT(fs->List("/job").value(), ::testing::Not(IsEmpty()));

  auto ranks = NewIn(*fs, 2, "/job");
  std::vector<std::thread> threads;
  std::vector<absl::Status> statuses(2);
  for (int rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&, rank] {
      statuses[rank] = ranks[rank]->Barrier("second", absl::Seconds(20));
      ranks[rank].reset();
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }

  EXPECT_THAT(statuses, ::testing::Each(IsOk()));
  EXPECT_THAT(fs->List("/").value(), IsEmpty());
}

TEST(FileCoordinatorTest, RanksThatDoNotComeAreNamedAndTheDirectoryGoes) {
  MemoryFileSystem fs;
  FileCoordinatorOptions options = OptionsOf(0, 3, "/job");
  options.join_timeout = absl::Milliseconds(100);

  EXPECT_THAT(FileCoordinator::Create(fs, options), IsKind(ErrorKind::kRank, HasSubstr("rank 1, 2 did not come")));
  EXPECT_THAT(fs.List("/").value(), IsEmpty());
}

TEST(FileCoordinatorTest, WithoutRank0TheOthersGiveUp) {
  MemoryFileSystem fs;
  FileCoordinatorOptions options = OptionsOf(1, 2, "/job");
  options.join_timeout = absl::Milliseconds(100);

  EXPECT_THAT(FileCoordinator::Create(fs, options), IsKind(ErrorKind::kRank, HasSubstr("rank 0 did not start")));
  EXPECT_THAT(fs.List("/").value(), IsEmpty());
}

TEST(FileCoordinatorTest, WhoWaitsToJoinSaysForWhomAndCanBeInterrupted) {
  MemoryFileSystem fs;
  for (const int rank : {0, 1}) {
    FileCoordinatorOptions options = OptionsOf(rank, 3, "/job");
    options.join_timeout = absl::InfiniteDuration();
    std::string said;
    options.hooks.patience = absl::ZeroDuration();
    options.hooks.waiting = [&said](const std::string& text) { said = text; };
    options.hooks.cancelled = [&said] { return !said.empty(); };

    const auto joined = FileCoordinator::Create(fs, options);

    EXPECT_TRUE(absl::IsCancelled(joined.status())) << joined.status();
    EXPECT_THAT(said, HasSubstr(rank == 0 ? "waiting for rank 1, 2 to come to" : "waiting for rank 0 to start"));
    EXPECT_THAT(fs.List("/").value(), IsEmpty());
  }
}

TEST(FileCoordinatorTest, AnInterruptedCallEndsTheJobOfAll) {
  MemoryFileSystem fs;
  std::atomic<bool> signalled{false};
  std::string said;
  std::vector<std::unique_ptr<Coordinator>> ranks(2);
  std::vector<std::thread> threads;
  for (const int rank : {0, 1}) {
    threads.emplace_back([&, rank] {
      FileCoordinatorOptions options = OptionsOf(rank, 2, "/job");
      options.hooks.patience = absl::ZeroDuration();
      options.hooks.cancelled = [&signalled, rank] { return rank == 0 && signalled; };
      options.hooks.waiting = [&, rank](const std::string& text) {
        if (rank == 0 && absl::StrContains(text, "barrier")) {
          said = text;
          signalled = true;
        }
      };
      ranks[rank] = FileCoordinator::Create(fs, options).value();
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }

  const absl::Status interrupted = ranks[0]->Barrier("meet", absl::InfiniteDuration());

  EXPECT_TRUE(absl::IsCancelled(interrupted)) << interrupted;
  EXPECT_EQ(said, "waiting for rank 1 to come to barrier \"meet\"");
  EXPECT_THAT(ranks[1]->Barrier("meet", absl::Seconds(20)),
              IsKind(ErrorKind::kRank, HasSubstr("rank 0 was interrupted at barrier \"meet\"")));
  // One of them says why.
  EXPECT_TRUE(ranks[1]->IsFirst("word"));
  EXPECT_FALSE(ranks[0]->IsFirst("word"));
  EXPECT_TRUE(ranks[1]->IsFirst("word"));
  ranks[1].reset();
}

TEST(FileCoordinatorTest, ASecondRank0IsToldThatTheJobRuns) {
  MemoryFileSystem fs;
  const auto ranks = NewIn(fs, 1, "/job");

  EXPECT_THAT(FileCoordinator::Create(fs, OptionsOf(0, 1, "/job")),
              IsKind(ErrorKind::kLocked, HasSubstr("another rank 0")));
}

TEST(FileCoordinatorTest, ARankOutsideOfTheJobIsRefused) {
  MemoryFileSystem fs;

  EXPECT_THAT(FileCoordinator::Create(fs, OptionsOf(2, 2, "/job")), IsKind(ErrorKind::kRequest));
}

TEST(FileCoordinatorTest, AbandonedJobsAreRemovedAndLiveOnesStay) {
  MemoryFileSystem fs;
  ASSERT_OK(fs.MakeDirectory("/.out.ranks-dead"));
  ASSERT_OK(fs.MakeDirectory("/.other.ranks-dead"));
  const auto live = NewIn(fs, 1, "/.out.ranks-live");

  RemoveAbandonedJobs(fs, "/.out.ranks-mine", ".out.ranks-");

  EXPECT_FALSE(Exists(fs, "/.out.ranks-dead").value());
  EXPECT_TRUE(Exists(fs, "/.other.ranks-dead").value());
  EXPECT_TRUE(Exists(fs, "/.out.ranks-live").value());
}

TEST(FileCoordinatorProcessTest, TheDeathOfAProcessIsNoticedLongBeforeTheTimeout) {
  const TempDirectory directory;
  const std::string job = directory.Path("job");
  const pid_t child = fork();
  if (child == 0) {
    const auto rank = FileCoordinator::Create(PosixFileSystem(), OptionsOf(1, 2, job));
    (*rank)->Barrier("first", absl::Seconds(20)).IgnoreError();
    kill(getpid(), SIGKILL);
  }
  const absl::Time start = absl::Now();
  ASSERT_OK_AND_ASSIGN(auto rank, FileCoordinator::Create(PosixFileSystem(), OptionsOf(0, 2, job)));
  EXPECT_OK(rank->Barrier("first", absl::Seconds(20)));

  EXPECT_THAT(rank->Barrier("second", absl::Seconds(60)), IsKind(ErrorKind::kRank, HasSubstr("rank 1 died")));

  EXPECT_LT(absl::Now() - start, absl::Seconds(30));
  waitpid(child, nullptr, 0);
}

}  // namespace
}  // namespace waypoint
