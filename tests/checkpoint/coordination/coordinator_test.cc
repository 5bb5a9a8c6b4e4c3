#include "checkpoint/coordination/coordinator.h"

#include "checkpoint/base/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace waypoint {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr absl::Duration kTimeout = absl::Seconds(1);

TEST(LocalCoordinatorTest, IsRankZeroOfOne) {
  LocalCoordinator coordinator;

  EXPECT_EQ(coordinator.rank(), 0);
  EXPECT_EQ(coordinator.world_size(), 1);
  EXPECT_TRUE(coordinator.Barrier("here", kTimeout).ok());
}

TEST(LocalCoordinatorTest, MessagesComeBack) {
  LocalCoordinator coordinator;

  const auto broadcast = coordinator.Broadcast("path", "step-1", 0, kTimeout);
  const auto gathered = coordinator.AllGather("bytes", std::string("a\0b", 3), kTimeout);

  ASSERT_TRUE(broadcast.ok());
  EXPECT_EQ(*broadcast, "step-1");
  ASSERT_TRUE(gathered.ok());
  EXPECT_THAT(*gathered, ElementsAre(std::string("a\0b", 3)));
}

TEST(LocalCoordinatorTest, BroadcastFromAnAbsentRankIsRefused) {
  LocalCoordinator coordinator;

  const absl::Status status = coordinator.Broadcast("path", "", 1, kTimeout).status();

  EXPECT_EQ(GetErrorKind(status), ErrorKind::kRequest);
  EXPECT_THAT(std::string(status.message()), HasSubstr("rank 1"));
}

TEST(LocalCoordinatorTest, OversizedMessagesAreRefused) {
  LocalCoordinator coordinator;
  const std::string large(Coordinator::kMaxMessageBytes + 1, 'x');

  EXPECT_EQ(GetErrorKind(coordinator.AllGather("big", large, kTimeout).status()), ErrorKind::kRequest);
}

// Answers AllGather as a job of three ranks would.
class ThreeRanks final : public Coordinator {
 public:
  explicit ThreeRanks(std::vector<std::string> others) : others_(std::move(others)) {}
  int rank() const override { return 0; }
  int world_size() const override { return 3; }
  absl::Status Barrier(absl::string_view, absl::Duration) override { return absl::OkStatus(); }
  absl::StatusOr<std::string> Broadcast(absl::string_view, const std::string& bytes, int, absl::Duration) override {
    return bytes;
  }
  absl::StatusOr<std::vector<std::string>> AllGather(absl::string_view, const std::string& bytes,
                                                     absl::Duration) override {
    return std::vector<std::string>{bytes, others_[0], others_[1]};
  }

 private:
  std::vector<std::string> others_;
};

TEST(CoordinatorTest, AgreeIsOkWhenAllAre) {
  EXPECT_TRUE(ThreeRanks({"", ""}).Agree("write", absl::OkStatus(), kTimeout).ok());
}

TEST(CoordinatorTest, AgreeReportsTheFirstRankThatFailed) {
  const absl::Status status = ThreeRanks({"", "!disk full"}).Agree("write", absl::OkStatus(), kTimeout);

  EXPECT_EQ(GetErrorKind(status), ErrorKind::kRank);
  EXPECT_THAT(std::string(status.message()), HasSubstr("rank 2 failed at \"write\": disk full"));
}

TEST(CoordinatorTest, AgreeGivesAFailedRankItsOwnErrorBack) {
  const absl::Status mine = MakeError(ErrorKind::kNoSpace, "no room");

  EXPECT_EQ(ThreeRanks({"!other", ""}).Agree("write", mine, kTimeout), mine);
}

// A job that cannot be reached.
class Unreachable final : public Coordinator {
 public:
  int rank() const override { return 0; }
  int world_size() const override { return 2; }
  absl::Status Barrier(absl::string_view, absl::Duration) override { return Gone(); }
  absl::StatusOr<std::string> Broadcast(absl::string_view, const std::string&, int, absl::Duration) override {
    return Gone();
  }
  absl::StatusOr<std::vector<std::string>> AllGather(absl::string_view, const std::string&, absl::Duration) override {
    return Gone();
  }

 private:
  static absl::Status Gone() { return MakeError(ErrorKind::kRank, "rank 1 did not come"); }
};

TEST(CoordinatorTest, AFailedRankThatCannotTellStillReturnsItsOwnError) {
  const absl::Status mine = MakeError(ErrorKind::kNoSpace, "no room");

  const absl::Status agreed = Unreachable().Agree("write", mine, kTimeout);
  const absl::Status gathered = Unreachable().AllGatherIfOk("names", mine, kTimeout).status();

  for (const absl::Status& status : {agreed, gathered}) {
    EXPECT_EQ(GetErrorKind(status), ErrorKind::kNoSpace);
    EXPECT_THAT(std::string(status.message()), HasSubstr("no room"));
    EXPECT_THAT(std::string(status.message()), HasSubstr("rank 1 did not come"));
  }
  EXPECT_EQ(GetErrorKind(Unreachable().Agree("write", absl::OkStatus(), kTimeout)), ErrorKind::kRank);
  EXPECT_EQ(GetErrorKind(Unreachable().AllGatherIfOk("names", std::string("a"), kTimeout).status()), ErrorKind::kRank);
}

}  // namespace
}  // namespace waypoint
