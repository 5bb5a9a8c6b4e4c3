#include "engine/mesh.h"

#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"

namespace waypoint::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(MeshTest, TensorShardsAreNeighbours) {
  ASSERT_OK_AND_ASSIGN(const MeshShape shape, MakeMeshShape(12, /*pipeline=*/2, /*tensor=*/3));

  EXPECT_EQ(shape.data, 2);
  const MeshCoordinates here = CoordinatesOf(shape, 10);
  EXPECT_EQ(here.pipeline, 1);
  EXPECT_EQ(here.data, 1);
  EXPECT_EQ(here.tensor, 1);
  EXPECT_THAT(RanksAlong(shape, here, MeshAxis::kTensor), ElementsAre(9, 10, 11));
  EXPECT_THAT(RanksAlong(shape, here, MeshAxis::kData), ElementsAre(7, 10));
  EXPECT_THAT(RanksAlong(shape, here, MeshAxis::kPipeline), ElementsAre(4, 10));
  EXPECT_EQ(RanksAlong(shape, here, MeshAxis::kWorld).size(), 12u);
}

TEST(MeshTest, CoordinatesAndRanksAreInverse) {
  for (const MeshShape shape : {MeshShape{1, 1, 1}, MeshShape{2, 3, 4}, MeshShape{4, 1, 3}, MeshShape{1, 5, 2}}) {
    for (int rank = 0; rank < shape.world_size(); ++rank) {
      EXPECT_EQ(RankOf(shape, CoordinatesOf(shape, rank)), rank);
    }
  }
}

TEST(MeshTest, AGroupIsTheSameForAllItsMembersAndGroupsPartitionTheWorld) {
  const MeshShape shape{2, 3, 4};
  for (const MeshAxis axis : {MeshAxis::kPipeline, MeshAxis::kData, MeshAxis::kTensor, MeshAxis::kWorld}) {
    std::set<std::vector<int>> groups;
    for (int rank = 0; rank < shape.world_size(); ++rank) {
      groups.insert(RanksAlong(shape, CoordinatesOf(shape, rank), axis));
    }
    std::set<int> members;
    size_t total = 0;
    for (const std::vector<int>& group : groups) {
      members.insert(group.begin(), group.end());
      total += group.size();
    }
    EXPECT_EQ(members.size(), 24u) << MeshAxisName(axis);
    EXPECT_EQ(total, 24u) << MeshAxisName(axis);
  }
}

TEST(MeshTest, AMeshThatDoesNotFillTheWorldIsRefused) {
  EXPECT_THAT(MakeMeshShape(6, 2, 2), IsKind(ErrorKind::kRequest, HasSubstr("does not divide 6 ranks")));
  EXPECT_THAT(MakeMeshShape(1, 1, 2), IsKind(ErrorKind::kRequest, HasSubstr("mesh.tensor 2")));
  EXPECT_THAT(MakeMeshShape(4, 0, 1), IsKind(ErrorKind::kRequest));
  EXPECT_THAT(MakeMeshShape(4, 1 << 30, 1 << 30), IsKind(ErrorKind::kRequest));
}

}  // namespace
}  // namespace waypoint::engine
