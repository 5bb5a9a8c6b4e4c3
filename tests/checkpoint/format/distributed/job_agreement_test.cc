// What the ranks of a job tell each other about a save, so that none of them saves something else than the others.

#include <atomic>

#include "absl/strings/str_cat.h"
#include "checkpoint/checkpointer/checkpointer.h"
#include "checkpoint/storage/fault_file_system.h"
#include "checkpoint/storage/memory_file_system.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/checkpoint/format/distributed/job.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(JobAgreementTest, StatesOfDifferentStepsAreNotSealedTogether) {
  const std::unique_ptr<MemorySource> state = SmallState(7);
  MemoryFileSystem fs;

  const auto statuses = RunJob(3, [&](std::unique_ptr<Coordinator> coordinator) {
    const int64_t step = coordinator->rank() == 1 ? 30 : 20;
    RankSource mine(*state, Rows, coordinator->rank(), 3);
    return CheckpointRoot(fs, "/run").Save(DistributedOptions(*coordinator), MetadataOf(step), mine).status();
  });

  EXPECT_THAT(statuses, Each(IsKind(ErrorKind::kRank, AllOf(HasSubstr("step 20"), HasSubstr("step 30")))));
  EXPECT_THAT(CheckpointRoot(fs, "/run").List().value(), IsEmpty());
}

TEST(JobAgreementTest, StatesOfDifferentStepsAreNotWrittenToOneTarget) {
  const std::unique_ptr<MemorySource> state = SmallState(7);
  MemoryFileSystem fs;

  const auto statuses = RunJob(2, [&](std::unique_ptr<Coordinator> coordinator) {
    RankSource mine(*state, Rows, coordinator->rank(), 2);
    const CheckpointerOptions options = DistributedOptions(*coordinator);
    WriteOptions write;
    write.format = options.format;
    write.save = options.save;
    return WriteCheckpoint(fs, "/c", write, MetadataOf(20 + coordinator->rank()), mine, {}).status();
  });

  EXPECT_THAT(statuses, Each(IsKind(ErrorKind::kRank, AllOf(HasSubstr("step 20"), HasSubstr("step 21")))));
  EXPECT_FALSE(Exists(fs, "/c").value());
}

TEST(JobAgreementTest, ARankWithoutAStateTellsTheOthersAndTheNextSaveWorks) {
  const std::unique_ptr<MemorySource> state = SmallState(7);
  MemoryFileSystem fs;

  std::vector<absl::Status> first(3);
  const auto second = RunJob(3, [&](std::unique_ptr<Coordinator> coordinator) {
    const int rank = coordinator->rank();
    RankSource mine(*state, Rows, rank, 3);
    CheckpointRoot root(fs, "/run");
    const CheckpointerOptions options = DistributedOptions(*coordinator);
    first[rank] = rank == 2 ? root.GiveUp(options, MetadataOf(1), MakeError(ErrorKind::kLimit, "no memory"))
                            : root.Save(options, MetadataOf(1), mine).status();
    return root.Save(options, MetadataOf(2), mine).status();
  });

  const auto told = IsKind(ErrorKind::kRank, AllOf(HasSubstr("rank 2"), HasSubstr("no memory")));
  EXPECT_THAT(first, ElementsAre(told, told, IsKind(ErrorKind::kLimit, HasSubstr("no memory"))));
  EXPECT_THAT(second, Each(IsOk()));
  ASSERT_OK_AND_ASSIGN(const std::vector<CheckpointRef> saved, CheckpointRoot(fs, "/run").List());
  ASSERT_EQ(saved.size(), 1u);
  EXPECT_EQ(saved[0].step, 2);
}

// Notes how many calls its file system had seen when each meeting began and ended.
class NotingCoordinator : public Coordinator {
 public:
  struct Meeting {
    std::string name;
    int64_t calls_before = 0;
    int64_t calls_after = 0;
  };

  NotingCoordinator(Coordinator& coordinator, const FaultFileSystem& fs) : coordinator_(coordinator), fs_(fs) {}
  int rank() const override { return coordinator_.rank(); }
  int world_size() const override { return coordinator_.world_size(); }
  absl::Status Barrier(absl::string_view name, absl::Duration timeout) override {
    return coordinator_.Barrier(name, timeout);
  }
  absl::StatusOr<std::string> Broadcast(absl::string_view name, const std::string& bytes, int root,
                                        absl::Duration timeout) override {
    return coordinator_.Broadcast(name, bytes, root, timeout);
  }
  absl::StatusOr<std::vector<std::string>> AllGather(absl::string_view name, const std::string& bytes,
                                                     absl::Duration timeout) override {
    const int64_t before = fs_.calls();
    auto all = coordinator_.AllGather(name, bytes, timeout);
    meetings.push_back({std::string(name), before, fs_.calls()});
    return all;
  }

  std::vector<Meeting> meetings;

 private:
  Coordinator& coordinator_;
  const FaultFileSystem& fs_;
};

// A rank that dies or gives up after the last agreement does not know whether rank 0 published: only the rename may lie
// between that agreement and the publication.
TEST(JobAgreementTest, OnlyTheRenameComesAfterAllAgreed) {
  const std::unique_ptr<MemorySource> state = SmallState(7);
  MemoryFileSystem disk;
  FaultFileSystem rank0(disk);
  std::atomic<bool> told{false};
  std::vector<NotingCoordinator::Meeting> meetings;

  const auto statuses = RunJob(2, [&](std::unique_ptr<Coordinator> coordinator) {
    const int rank = coordinator->rank();
    RankSource mine(*state, Rows, rank, 2);
    NotingCoordinator noting(*coordinator, rank0);
    WriteOptions write;
    write.format = "distributed";
    write.save = DistributedOptions(noting).save;
    write.before_publish = [&](const std::string&) {
      told = true;
      return absl::OkStatus();
    };
    FileSystem& fs = rank == 0 ? static_cast<FileSystem&>(rank0) : disk;
    const absl::Status status = WriteCheckpoint(fs, "/c", write, MetadataOf(1), mine, {}).status();
    if (rank == 0) {
      meetings = noting.meetings;
    }
    return status;
  });

  ASSERT_THAT(statuses, Each(IsOk()));
  EXPECT_TRUE(told);
  ASSERT_GE(meetings.size(), 2u);
  EXPECT_EQ(meetings.back().name, "publication");
  const std::vector<FileCall> trace = rank0.trace();
  std::vector<FileCall::Kind> between;
  for (int64_t i = meetings[meetings.size() - 2].calls_after; i < meetings.back().calls_before; ++i) {
    between.push_back(trace[i].kind);
  }
  EXPECT_THAT(between, ElementsAre(FileCall::kRename, FileCall::kSyncDirectory));
}

TEST(JobAgreementTest, ARefusalBeforePublishOfAnyRankReachesAll) {
  for (const int refusing : {0, 1}) {
    const std::unique_ptr<MemorySource> state = SmallState(7);
    MemoryFileSystem fs;

    const auto statuses = RunJob(2, [&](std::unique_ptr<Coordinator> coordinator) {
      const int rank = coordinator->rank();
      RankSource mine(*state, Rows, rank, 2);
      WriteOptions write;
      write.format = "distributed";
      write.save = DistributedOptions(*coordinator).save;
      write.before_publish = [&, rank](const std::string& staged) {
        // Every rank sees the sealed checkpoint.
        EXPECT_TRUE(Exists(fs, JoinPath(staged, "distributed.pb")).value());
        return rank == refusing ? MakeError(ErrorKind::kVerify, "not today") : absl::OkStatus();
      };
      return WriteCheckpoint(fs, "/c", write, MetadataOf(1), mine, {}).status();
    });

    EXPECT_THAT(statuses[refusing], IsKind(ErrorKind::kVerify, HasSubstr("not today")));
    EXPECT_THAT(statuses[1 - refusing], IsKind(ErrorKind::kRank, HasSubstr("not today")));
    EXPECT_FALSE(Exists(fs, "/c").value());
  }
}

}  // namespace
}  // namespace waypoint
