#include "engine/share_failure.h"

#include <thread>
#include <vector>

#include "checkpoint/base/error.h"
#include "checkpoint/coordination/thread_coordinator.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"

namespace waypoint::engine {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::Not;

struct Failure {
  absl::Status status;
  bool gone = false;
};

const absl::Status kOwn = MakeError(ErrorKind::kNoSpace, "disk full");
const absl::Status kTold = MakeError(ErrorKind::kRank, "rank 1 failed at \"files\": disk full");
const absl::Status kGone = MakeError(ErrorKind::kRank, "sum of 3 elements: connection closed");

std::vector<absl::Status> Share(const std::vector<Failure>& failures) {
  auto coordinators = NewThreadCoordinators(static_cast<int>(failures.size()));
  std::vector<absl::Status> shared(failures.size());
  std::vector<std::thread> ranks;
  for (size_t rank = 0; rank < failures.size(); ++rank) {
    ranks.emplace_back([&, rank] {
      shared[rank] = ShareFailure(*coordinators[rank], "last words", failures[rank].status, failures[rank].gone,
                                  absl::Seconds(20));
    });
  }
  for (std::thread& rank : ranks) {
    rank.join();
  }
  return shared;
}

TEST(ShareFailureTest, AllWellIsOk) { EXPECT_THAT(Share({{}, {}, {}}), Each(IsOk())); }

TEST(ShareFailureTest, TheOwnErrorOfARankIsItsOwnAndNamedByAllOthers) {
  const auto shared = Share({{kGone, true}, {kOwn}, {kTold}, {}});

  EXPECT_THAT(shared[1], IsKind(ErrorKind::kNoSpace));
  for (const int other : {0, 2, 3}) {
    EXPECT_THAT(shared[other], IsKind(ErrorKind::kRank, HasSubstr("rank 1 failed: E_NO_SPACE: disk full")));
  }
}

TEST(ShareFailureTest, WhoWasToldOfACauseTellsThoseThatOnlyLostConnections) {
  EXPECT_THAT(Share({{kGone, true}, {kGone, true}, {kTold}}),
              Each(IsKind(ErrorKind::kRank, AllOf(HasSubstr("disk full"), Not(HasSubstr("connection"))))));
}

TEST(ShareFailureTest, TheFirstRankThatFailedByItselfIsNamed) {
  const auto shared = Share({{kTold}, {kOwn}, {MakeError(ErrorKind::kIo, "cable")}});

  EXPECT_THAT(shared[0], IsKind(ErrorKind::kRank, HasSubstr("rank 1 failed: E_NO_SPACE")));
  EXPECT_THAT(shared[2], IsKind(ErrorKind::kIo));
}

TEST(ShareFailureTest, WhatGoesAlongReachesAllAndChangesNoError) {
  auto coordinators = NewThreadCoordinators(2);
  std::vector<std::string> beside[2];
  absl::Status shared[2];
  std::thread other([&] {
    shared[1] = ShareFailure(*coordinators[1], "last words", kOwn, /*gone=*/false, absl::Seconds(20), "-disk\nfull",
                             &beside[1]);
  });
  shared[0] = ShareFailure(*coordinators[0], "last words", kGone, /*gone=*/true, absl::Seconds(20), "", &beside[0]);
  other.join();

  for (const auto& all : beside) {
    EXPECT_THAT(all, ::testing::ElementsAre("", "-disk full"));
  }
  EXPECT_THAT(shared[0], IsKind(ErrorKind::kRank, HasSubstr("rank 1 failed: E_NO_SPACE: disk full")));
  EXPECT_THAT(shared[1], IsKind(ErrorKind::kNoSpace, "disk full"));

  coordinators[1].reset();
  std::vector<std::string> unreached;
  EXPECT_THAT(ShareFailure(*coordinators[0], "last words", kOwn, /*gone=*/false, absl::Seconds(20), "+3", &unreached),
              IsKind(ErrorKind::kNoSpace));
  EXPECT_THAT(unreached, ::testing::IsEmpty());
}

TEST(ShareFailureTest, ARankThatIsNotThereIsNamedBesideWhatIsKnown) {
  auto coordinators = NewThreadCoordinators(2);
  coordinators[1].reset();

  EXPECT_THAT(ShareFailure(*coordinators[0], "last words", kGone, /*gone=*/true, absl::Seconds(20)),
              IsKind(ErrorKind::kRank, AllOf(HasSubstr("connection closed; then: rank 1 left"))));
}

}  // namespace
}  // namespace waypoint::engine
