// Ranks that save together beside training: what befalls one snapshot, all ranks learn.

#include <cstring>
#include <functional>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "checkpoint/async/async_saver.h"
#include "checkpoint/coordination/thread_coordinator.h"
#include "checkpoint/storage/memory_file_system.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Two ranks, each with one row of a tensor that has to be fetched.
class AsyncRanksTest : public ::testing::TestWithParam<SnapshotMethod> {
 protected:
  void SetUp() override { MakeSavers(true); }

  void MakeSavers(bool wait_when_busy) {
    for (int rank = 0; rank < 2; ++rank) {
      AsyncSaveOptions options;
      options.method = GetParam();
      options.wait_when_busy = wait_when_busy;
      // What a failed test leaves.
      options.on_lost_failure = [](const absl::Status&) {};
      savers_[rank] = std::make_unique<AsyncSaver>(options);
    }
  }

  MemoryState StateOf(int rank) {
    MemoryTensor tensor;
    tensor.name = "w";
    tensor.dtype = DType::kU8;
    tensor.shape = {2, 4};
    tensor.box = Box::Whole({1, 4});
    tensor.box.offsets = {rank, 0};
    tensor.fetch = [this, rank](const StridedSpan& to) {
      std::memcpy(to.data, "abcd", 4);
      return fetch_result_[rank];
    };
    return {tensor};
  }

  SnapshotWriter WriterOf(int rank, int64_t step) {
    CheckpointerOptions options;
    options.format = "distributed";
    options.save.coordinator = coordinators_[rank].get();
    options.save.coordination_timeout = absl::Seconds(20);
    CheckpointMetadata metadata;
    metadata.mutable_training()->set_step(step);
    return SaveInto(roots_[rank], options, metadata);
  }

  absl::Status Save(int rank, int64_t step) {
    return savers_[rank]->Save(StateOf(rank), WriterOf(rank, step)).status();
  }

  // Whichever call says so, of a save that was or was not begun.
  absl::Status SaveAndWait(int rank, int64_t step) {
    absl::Status status = Save(rank, step);
    status.Update(savers_[rank]->Wait());
    return status;
  }

  std::vector<int64_t> Steps() {
    std::vector<int64_t> steps;
    const auto list = roots_[0].List();
    EXPECT_OK(list);
    for (const CheckpointRef& ref : *list) {
      steps.push_back(ref.step);
    }
    return steps;
  }

  MemoryFileSystem fs_;
  std::vector<std::unique_ptr<Coordinator>> coordinators_ = NewThreadCoordinators(2);
  CheckpointRoot roots_[2] = {CheckpointRoot(fs_, "/run"), CheckpointRoot(fs_, "/run")};
  absl::Status fetch_result_[2];
  std::unique_ptr<AsyncSaver> savers_[2];
};

TEST_P(AsyncRanksTest, ASnapshotThatFailsOnOneRankFailsTheSaveOnAllAndTheNextOneWorks) {
  fetch_result_[1] = MakeError(ErrorKind::kIo, "device lost");
  ASSERT_OK(Save(0, 10));
  EXPECT_THAT(SaveAndWait(1, 10), IsKind(ErrorKind::kIo, HasSubstr("device lost")));
  EXPECT_THAT(savers_[0]->Wait(), IsKind(ErrorKind::kRank, AllOf(HasSubstr("rank 1"), HasSubstr("device lost"))));

  fetch_result_[1] = absl::OkStatus();
  ASSERT_OK(Save(0, 20));
  EXPECT_OK(SaveAndWait(1, 20));
  EXPECT_OK(savers_[0]->Wait());
  EXPECT_THAT(Steps(), ElementsAre(20));
}

TEST_P(AsyncRanksTest, AStateThatIsRefusedOnOneRankFailsTheSaveOnAll) {
  MemoryState bad = StateOf(1);
  bad[0].dtype = DType::kF4;
  ASSERT_OK(Save(0, 10));
  EXPECT_THAT(savers_[1]->Save(bad, WriterOf(1, 10)), IsKind(ErrorKind::kDType, HasSubstr("\"w\"")));
  EXPECT_THAT(savers_[0]->Wait(), IsKind(ErrorKind::kRank, HasSubstr("rank 1")));
  EXPECT_OK(savers_[1]->Wait());
  EXPECT_THAT(Steps(), ElementsAre());
}

// One rank is told of a failure by Wait, another by its next Save, which then saves nothing.
TEST_P(AsyncRanksTest, ASaveThatOnlyReportsTheFailureBeforeIsNotMissedByTheOthers) {
  fetch_result_[0] = MakeError(ErrorKind::kIo, "device lost");
  ASSERT_OK(Save(1, 10));
  EXPECT_FALSE(SaveAndWait(0, 10).ok());
  fetch_result_[0] = absl::OkStatus();
  while (savers_[1]->busy()) {
    std::this_thread::yield();
  }

  ASSERT_OK(Save(0, 20));
  EXPECT_FALSE(Save(1, 20).ok());
  EXPECT_THAT(savers_[0]->Wait(), IsKind(ErrorKind::kRank, HasSubstr("rank 1")));

  ASSERT_OK(Save(0, 30));
  EXPECT_OK(SaveAndWait(1, 30));
  EXPECT_OK(savers_[0]->Wait());
  EXPECT_THAT(Steps(), ElementsAre(30));
}

TEST_P(AsyncRanksTest, AStepThatABusyRankRefusesIsMixedWithNoOther) {
  MakeSavers(/*wait_when_busy=*/false);
  // Rank 1 is done with the others at step 10, but not with itself.
  absl::Notification go_on;
  const SnapshotWriter lingers = [inner = WriterOf(1, 10), &go_on](const absl::StatusOr<TensorSource*>& snapshot) {
    auto saved = inner(snapshot);
    go_on.WaitForNotification();
    return saved;
  };
  ASSERT_OK(savers_[1]->Save(StateOf(1), lingers));
  ASSERT_OK(SaveAndWait(0, 10));

  ASSERT_OK(Save(0, 20));
  EXPECT_THAT(Save(1, 20), IsKind(ErrorKind::kLocked, HasSubstr("still being written")));
  go_on.Notify();
  EXPECT_THAT(savers_[0]->Wait(), IsKind(ErrorKind::kRank, HasSubstr("still being written")));
  EXPECT_OK(savers_[1]->Wait());

  ASSERT_OK(Save(0, 30));
  EXPECT_OK(SaveAndWait(1, 30));
  EXPECT_OK(savers_[0]->Wait());
  EXPECT_THAT(Steps(), ElementsAre(10, 30));
}

INSTANTIATE_TEST_SUITE_P(Methods, AsyncRanksTest, ::testing::Values(SnapshotMethod::kCopy, SnapshotMethod::kLazy),
                         [](const auto& info) { return std::string(SnapshotMethodName(info.param)); });

}  // namespace
}  // namespace waypoint
