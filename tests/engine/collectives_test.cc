#include "engine/collectives.h"

#include "ATen/Functions.h"
#include "ATen/ops/equal.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/status_macros.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/rank_threads.h"
#include "tests/testing/status_matchers.h"

namespace waypoint::engine {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;

constexpr MeshShape kShape{/*pipeline=*/2, /*data=*/1, /*tensor=*/2};

ProcessGroupOptions Patience(absl::Duration timeout) {
  ProcessGroupOptions options;
  options.timeout = timeout;
  return options;
}

// Runs `body` in a mesh of 2 stages of 2 tensor ranks.
std::vector<absl::Status> InMesh(const std::function<absl::Status(ProcessGroups&)>& body,
                                 absl::Duration timeout = absl::Seconds(30)) {
  return RunRanks(4, [&](TestRank mine) -> absl::Status {
    WAYPOINT_ASSIGN_OR_RETURN(auto groups, ProcessGroups::Create(mine.rendezvous, kShape, Patience(timeout)));
    return body(*groups);
  });
}

absl::Status Expect(bool fine, absl::string_view what) { return fine ? absl::OkStatus() : absl::InternalError(what); }

TEST(CollectivesTest, SumsStayInTheirGroup) {
  const auto statuses = InMesh([](ProcessGroups& groups) -> absl::Status {
    const at::Tensor tensor_group = at::full({3}, groups.rank(), at::kFloat);
    WAYPOINT_RETURN_IF_ERROR(groups.AllReduceSum(MeshAxis::kTensor, tensor_group));
    const at::Tensor world = at::full({2, 2}, groups.rank(), at::kBFloat16);
    WAYPOINT_RETURN_IF_ERROR(groups.AllReduceSum(MeshAxis::kWorld, world));
    const at::Tensor most = at::full({1}, groups.rank(), at::kLong);
    WAYPOINT_RETURN_IF_ERROR(groups.AllReduceMax(MeshAxis::kPipeline, most));
    const at::Tensor alone = at::full({1}, groups.rank(), at::kDouble);
    WAYPOINT_RETURN_IF_ERROR(groups.AllReduceSum(MeshAxis::kData, alone));
    WAYPOINT_RETURN_IF_ERROR(Expect(tensor_group[2].item<int>() == (groups.rank() < 2 ? 1 : 5), "tensor"));
    WAYPOINT_RETURN_IF_ERROR(Expect(world[1][0].item<double>() == 6, "world"));
    WAYPOINT_RETURN_IF_ERROR(Expect(most.item<int>() == groups.rank() % 2 + 2, "maximum"));
    return Expect(alone.item<int>() == groups.rank(), "alone");
  });

  EXPECT_THAT(statuses, Each(IsOk()));
}

TEST(CollectivesTest, PartsAreGatheredAndScatteredByIndex) {
  const auto statuses = InMesh([](ProcessGroups& groups) -> absl::Status {
    const at::Tensor mine = at::full({3}, groups.rank(), at::kBFloat16);
    WAYPOINT_ASSIGN_OR_RETURN(const auto all, groups.AllGather(MeshAxis::kWorld, mine));
    for (int rank = 0; rank < 4; ++rank) {
      WAYPOINT_RETURN_IF_ERROR(Expect(at::equal(all[rank], at::full({3}, rank, at::kBFloat16)), "gathered"));
    }
    WAYPOINT_ASSIGN_OR_RETURN(const auto nothing, groups.AllGather(MeshAxis::kTensor, at::empty({0}, at::kFloat)));
    WAYPOINT_RETURN_IF_ERROR(Expect(nothing.size() == 2, "nothing"));
    WAYPOINT_ASSIGN_OR_RETURN(const at::Tensor part,
                              groups.ReduceScatterSum(MeshAxis::kWorld, at::arange(8, at::kFloat)));
    return Expect(at::equal(part, at::arange(8 * groups.rank(), 8 * groups.rank() + 8, 4, at::kFloat)), "scattered");
  });

  EXPECT_THAT(statuses, Each(IsOk()));
}

TEST(CollectivesTest, StagesPassTensorsInOrder) {
  const auto statuses = InMesh([](ProcessGroups& groups) -> absl::Status {
    for (int i = 0; i < 3; ++i) {
      const at::Tensor expected = at::full({2, 3}, 10 * i + groups.here().tensor, at::kBFloat16);
      if (groups.here().pipeline == 0) {
        WAYPOINT_RETURN_IF_ERROR(groups.Send(MeshAxis::kPipeline, expected, 1));
        continue;
      }
      const at::Tensor received = at::zeros({2, 3}, at::kBFloat16);
      WAYPOINT_RETURN_IF_ERROR(groups.Recv(MeshAxis::kPipeline, received, 0));
      WAYPOINT_RETURN_IF_ERROR(Expect(at::equal(received, expected), "received"));
    }
    return absl::OkStatus();
  });

  EXPECT_THAT(statuses, Each(IsOk()));
}

TEST(CollectivesTest, ARankThatLeavesIsAnErrorForItsGroupAtOnce) {
  const absl::Time begin = absl::Now();
  const auto statuses = InMesh([](ProcessGroups& groups) -> absl::Status {
    if (groups.rank() == 3) {
      groups.Close();
      return groups.AllReduceSum(MeshAxis::kTensor, at::zeros({1}));
    }
    const absl::Status first = groups.AllReduceSum(MeshAxis::kWorld, at::zeros({1}));
    WAYPOINT_RETURN_IF_ERROR(Expect(groups.failure() == first, "failure"));
    return groups.AllReduceSum(MeshAxis::kTensor, at::zeros({1}));
  });

  EXPECT_LT(absl::Now() - begin, absl::Seconds(20));
  EXPECT_THAT(statuses[3], IsKind(ErrorKind::kRank, HasSubstr("rank 3 has left")));
  for (int rank = 0; rank < 3; ++rank) {
    EXPECT_THAT(statuses[rank],
                IsKind(ErrorKind::kRank, AllOf(HasSubstr(absl::StrCat("rank ", rank, ": sum of 1 elements")),
                                               HasSubstr("world group (ranks 0, 1, 2, 3)"))));
  }
}

TEST(CollectivesTest, ARankThatStaysAwayIsATimeout) {
  const auto statuses = InMesh(
      [](ProcessGroups& groups) -> absl::Status {
        if (groups.rank() == 1) {
          // Until the other one has given up.
          absl::SleepFor(absl::Seconds(2));
          return absl::OkStatus();
        }
        return groups.here().pipeline == 0 ? groups.AllReduceSum(MeshAxis::kTensor, at::zeros({1})) : absl::OkStatus();
      },
      absl::Milliseconds(500));

  EXPECT_THAT(statuses[0], IsKind(ErrorKind::kRank, HasSubstr("tensor group (ranks 0, 1)")));
}

TEST(CollectivesTest, OneRankIsAloneInEveryGroup) {
  const auto groups = ProcessGroups::Alone();
  const at::Tensor tensor = at::ones({2});

  EXPECT_OK(groups->AllReduceSum(MeshAxis::kWorld, tensor));

  EXPECT_EQ(groups->size(MeshAxis::kData), 1);
  EXPECT_TRUE(at::equal(tensor, at::ones({2})));
}

TEST(CollectivesTest, AStoreThatNobodyServesIsAnError) {
  C10dOptions rendezvous;
  rendezvous.rank = 1;
  rendezvous.world_size = 2;
  rendezvous.port = 1;
  rendezvous.connect_timeout = absl::Milliseconds(300);

  EXPECT_THAT(ProcessGroups::Create(rendezvous, {1, 2, 1}, {}).status(),
              IsKind(ErrorKind::kRank, HasSubstr("rank 1 cannot reach the store at 127.0.0.1:1")));
}

}  // namespace
}  // namespace waypoint::engine
