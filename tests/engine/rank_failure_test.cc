// How a job of many ranks ends when one of them fails: with its error, by its name, and in the time that the config
// says.

#include <atomic>
#include <future>
#include <mutex>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/storage/fault_file_system.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/job_run.h"
#include "tests/engine/tiny_run.h"
#include "tests/testing/status_matchers.h"

namespace waypoint::engine {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::Not;

// Passes all on, and shows what passes.
class SeenCoordinator : public Coordinator {
 public:
  struct Call {
    std::string name;
    std::string bytes;
    absl::Duration timeout;
  };
  // `begin` and `end`: before and after each call.
  SeenCoordinator(std::unique_ptr<Coordinator> base, std::function<void(const Call&)> begin,
                  std::function<void(const Call&)> end)
      : base_(std::move(base)), begin_(std::move(begin)), end_(std::move(end)) {}

  template <typename Function>
  auto See(const Call& call, Function&& pass_on) {
    begin_(call);
    auto result = pass_on();
    end_(call);
    return result;
  }

  int rank() const override { return base_->rank(); }
  int world_size() const override { return base_->world_size(); }
  absl::Status Barrier(absl::string_view name, absl::Duration timeout) override {
    return See({std::string(name), "", timeout}, [&] { return base_->Barrier(name, timeout); });
  }
  absl::StatusOr<std::string> Broadcast(absl::string_view name, const std::string& bytes, int root,
                                        absl::Duration timeout) override {
    return See({std::string(name), bytes, timeout}, [&] { return base_->Broadcast(name, bytes, root, timeout); });
  }
  absl::StatusOr<std::vector<std::string>> AllGather(absl::string_view name, const std::string& bytes,
                                                     absl::Duration timeout) override {
    return See({std::string(name), bytes, timeout}, [&] { return base_->AllGather(name, bytes, timeout); });
  }

 private:
  const std::unique_ptr<Coordinator> base_;
  const std::function<void(const Call&)> begin_;
  const std::function<void(const Call&)> end_;
};

void Nothing(const SeenCoordinator::Call&) {}

class FullDisk : public FaultFileSystem {
 public:
  FullDisk() : FaultFileSystem(PosixFileSystem()) {}
  absl::StatusOr<std::unique_ptr<WritableFile>> Create(const std::string& path, const CreateOptions& options) override {
    return MakeError(ErrorKind::kNoSpace, absl::StrCat("\"", path, "\": injected"));
  }
};

// With a timeout that nothing else has.
TEST(RankFailureTest, EveryWaitOfACheckpointIsAsLongAsTheConfigSays) {
  const std::string directory = FreshDirectory("waits");
  std::mutex mutex;
  std::vector<std::string> others;
  int64_t calls = 0;
  JobOptions options;
  options.wrap_coordinator = [&](int, std::unique_ptr<Coordinator> base) -> std::unique_ptr<Coordinator> {
    const auto count = [&](const SeenCoordinator::Call& call) {
      const std::lock_guard<std::mutex> lock(mutex);
      ++calls;
      if (call.timeout != absl::Seconds(77)) {
        others.push_back(absl::StrCat(call.name, ": ", absl::FormatDuration(call.timeout)));
      }
    };
    return std::make_unique<SeenCoordinator>(std::move(base), count, Nothing);
  };

  for (const std::string format : {"distributed", "native"}) {
    const JobRun run = RunJob(2,
                              {JobConfig(absl::StrCat(directory, "/", format), TextFile(directory), 2),
                               absl::StrCat("checkpoint { interval: 1 timeout_seconds: 77 format: \"", format,
                                            "\" } export { format: \"llama\" interval: 1 }")},
                              options);
    ASSERT_THAT(run.statuses, Each(IsOk()));
  }

  EXPECT_THAT(others, ::testing::IsEmpty());
  EXPECT_GT(calls, 40);
}

TEST(RankFailureTest, ARankThatDoesNotComeToASaveIsNamedWhenItsTimeIsOver) {
  const std::string directory = FreshDirectory("late");
  std::promise<void> given_up;
  JobOptions options;
  options.wrap_coordinator = [&](int rank, std::unique_ptr<Coordinator> base) -> std::unique_ptr<Coordinator> {
    return std::make_unique<SeenCoordinator>(
        std::move(base),
        [&, rank](const SeenCoordinator::Call& call) {
          if (rank == 0 && call.name == "last words") {
            given_up.set_value();
          } else if (rank == 1 && absl::StartsWith(call.name, "directory of step")) {
            given_up.get_future().wait();
          }
        },
        Nothing);
  };

  const JobRun run =
      RunJob(2, {JobConfig(directory + "/run", TextFile(directory), 1), "checkpoint { timeout_seconds: 4 }"}, options);

  EXPECT_THAT(run.statuses, Each(IsKind(ErrorKind::kRank, HasSubstr("rank 1 did not come to gather \"directory of"))));
}

// Rank 1's save fails while all are in a step.  Rank 0, told of it, ends first: all that rank 1 and 2 see is that it is
// gone.
TEST(RankFailureTest, ABackgroundSaveThatFailsBesideAStepIsTheErrorOfItsRank) {
  const std::string directory = FreshDirectory("beside");
  FullDisk full;
  std::promise<void> rank_0_is_gone;
  const std::shared_future<void> gone = rank_0_is_gone.get_future().share();
  std::atomic<int> delayed{0};
  JobOptions options;
  options.fs_of_rank = [&](int rank) -> FileSystem* { return rank == 1 ? &full : &PosixFileSystem(); };
  options.wrap_coordinator = [&](int rank, std::unique_ptr<Coordinator> base) -> std::unique_ptr<Coordinator> {
    return std::make_unique<SeenCoordinator>(
        std::move(base),
        [&, rank](const SeenCoordinator::Call& call) {
          if (rank == 0 && call.name == "last words") {
            rank_0_is_gone.set_value();
          }
        },
        [&, rank](const SeenCoordinator::Call& call) {
          // The background of the others returns late.
          if (absl::StartsWith(call.bytes, "!")) {
            ++delayed;
          }
          if (rank > 0 && delayed > 0 && call.name != "last words") {
            gone.wait();
          }
        });
  };

  const JobRun run =
      RunJob(3, {JobConfig(directory + "/run", TextFile(directory), 100000), "checkpoint { interval: 50 async: COPY }"},
             options);

  EXPECT_THAT(run.statuses[1], IsKind(ErrorKind::kNoSpace, HasSubstr("injected")));
  for (const int other : {0, 2}) {
    EXPECT_THAT(run.statuses[other],
                IsKind(ErrorKind::kRank, AllOf(HasSubstr("rank 1 failed: E_NO_SPACE"), Not(HasSubstr("closed")))));
  }
}

// Before that the others wait for its connections.
TEST(RankFailureTest, ARankWithoutDataIsNamedBeforeTheOthersConnect) {
  const std::string directory = FreshDirectory("no_data");
  JobOptions options;
  options.config_of_rank = [](int rank) { return rank == 1 ? "data { path: \"/nowhere/tokens\" }" : ""; };

  const JobRun run = RunJob(3, {JobConfig(directory + "/run", TextFile(directory), 1)}, options);

  EXPECT_THAT(run.statuses[1], IsKind(ErrorKind::kIo, HasSubstr("/nowhere/tokens")));
  for (const int other : {0, 2}) {
    EXPECT_THAT(run.statuses[other],
                IsKind(ErrorKind::kRank, AllOf(HasSubstr("rank 1"), HasSubstr("/nowhere/tokens"))));
  }
}

}  // namespace
}  // namespace waypoint::engine
