#include "checkpoint/plan/save_plan.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/checkpoint/plan/random_boxes.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {
namespace {

using ::testing::HasSubstr;

TensorMeta Meta(const std::string& name, Dims shape, std::vector<Box> boxes = {}, DType dtype = DType::kF32) {
  TensorMeta meta;
  meta.name = name;
  meta.dtype = dtype;
  meta.shape = std::move(shape);
  meta.boxes = std::move(boxes);
  return meta;
}

Manifest ManifestOf(const std::vector<TensorMeta>& tensors) {
  Manifest manifest;
  for (const TensorMeta& tensor : tensors) {
    EXPECT_OK(manifest.Add(tensor));
  }
  return manifest;
}

absl::StatusOr<SavePlan> Plan(const std::vector<Manifest>& ranks, int64_t min_part_bytes = 0) {
  SavePlanOptions options;
  options.min_part_bytes = min_part_bytes;
  SavePlanner planner(options);
  for (const Manifest& rank : ranks) {
    const absl::Status added = planner.AddRank(rank);
    if (!added.ok()) {
      return added;
    }
  }
  return std::move(planner).Finish();
}

double Imbalance(const SavePlan& plan) {
  const int64_t total = std::accumulate(plan.bytes.begin(), plan.bytes.end(), int64_t{0});
  return static_cast<double>(*std::max_element(plan.bytes.begin(), plan.bytes.end())) * plan.bytes.size() / total;
}

// Every element once, by a rank that holds it, bytes as told.
void Check(const std::vector<Manifest>& ranks, const SavePlan& plan) {
  ASSERT_EQ(plan.writes.size(), ranks.size());
  std::vector<std::vector<Box>> written(plan.tensors.size());
  for (size_t rank = 0; rank < ranks.size(); ++rank) {
    int64_t bytes = 0;
    for (const PlannedBox& write : plan.writes[rank]) {
      const TensorMeta& meta = plan.tensors[write.tensor];
      const int64_t held = ranks[rank].Find(meta.name);
      ASSERT_GE(held, 0);
      const std::vector<Box>& boxes = ranks[rank][held].boxes;
      EXPECT_TRUE(boxes.empty() || std::any_of(boxes.begin(), boxes.end(),
                                               [&](const Box& box) { return Intersect(box, write.box) == write.box; }))
          << "rank " << rank << " does not hold " << write.box.ToString();
      written[write.tensor].push_back(write.box);
      bytes += write.box.num_elements() * DTypeBytes(meta.dtype);
    }
    EXPECT_EQ(bytes, plan.bytes[rank]);
  }
  for (int64_t tensor = 0; tensor < plan.tensors.size(); ++tensor) {
    const std::vector<int> counts = CountElements(plan.tensors[tensor].shape, written[tensor]);
    EXPECT_TRUE(std::all_of(counts.begin(), counts.end(), [](int count) { return count == 1; }))
        << plan.tensors[tensor].name;
  }
}

TEST(SavePlannerTest, EveryElementOfTilesWithReplicasIsWrittenOnce) {
  Random random(5);
  for (int round = 0; round < 200; ++round) {
    const int64_t world_size = Uniform(random, 1, 6);
    std::vector<std::vector<TensorMeta>> tensors(world_size);
    for (int t = 0; t < 6; ++t) {
      const Dims shape = RandomShape(random, 3, 8);
      std::vector<std::vector<Box>> boxes(world_size);
      for (const Box& tile : RandomTiling(random, shape, 5)) {
        const int64_t first = Uniform(random, 0, world_size - 1);
        const int64_t holders = Uniform(random, 1, world_size);
        for (int64_t i = 0; i < holders; ++i) {
          boxes[(first + i) % world_size].push_back(tile);
        }
      }
      for (int64_t rank = 0; rank < world_size; ++rank) {
        if (!boxes[rank].empty()) {
          tensors[rank].push_back(Meta(absl::StrCat("t", t), shape, boxes[rank]));
        }
      }
    }
    std::vector<Manifest> ranks;
    for (const auto& of_rank : tensors) {
      ranks.push_back(ManifestOf(of_rank));
    }

    ASSERT_OK_AND_ASSIGN(const SavePlan plan, Plan(ranks));

    Check(ranks, plan);
  }
}

TEST(SavePlannerTest, BoxesThatOverlapOtherwiseAreWrittenOnceToo) {
  Random random(6);
  for (int round = 0; round < 300; ++round) {
    const Dims shape = RandomShape(random, 3, 6);
    std::vector<Manifest> ranks = {ManifestOf({Meta("w", shape)})};
    for (int rank = 0; rank < 4; ++rank) {
      ranks.push_back(ManifestOf({Meta("w", shape, RandomTiling(random, shape, rank))}));
    }
    std::vector<Box> some = RandomTiling(random, shape, 9);
    some.resize(1 + some.size() / 2);
    ranks.push_back(ManifestOf({Meta("w", shape, some)}));

    ASSERT_OK_AND_ASSIGN(const SavePlan plan, Plan(ranks));

    Check(ranks, plan);
  }
}

TEST(SavePlannerTest, ReplicasAreSharedOutEvenly) {
  const Manifest all = ManifestOf({Meta("embedding", {1000, 16}), Meta("norm", {16}), Meta("w", {333, 64})});

  ASSERT_OK_AND_ASSIGN(const SavePlan plan, Plan({all, all, all, all, all, all}));

  Check({all, all, all, all, all, all}, plan);
  EXPECT_LT(Imbalance(plan), 1.01);
}

TEST(SavePlannerTest, ReplicasGoToThoseWhoWriteLittleElse) {
  // Rank 0 has much of its own; rank 1 must take all of what both hold.
  const Manifest busy = ManifestOf({Meta("own", {100}), Meta("shared", {80})});
  const Manifest idle = ManifestOf({Meta("shared", {80})});

  ASSERT_OK_AND_ASSIGN(const SavePlan plan, Plan({busy, idle}));

  EXPECT_THAT(plan.bytes, ::testing::ElementsAre(400, 320));
}

TEST(SavePlannerTest, PartsOfReplicasAreNotSmallerThanAsked) {
  const Manifest all = ManifestOf({Meta("w", {100, 25})});  // 10,000 bytes

  ASSERT_OK_AND_ASSIGN(const SavePlan plan, Plan({all, all, all, all}, 4000));

  for (const int64_t bytes : plan.bytes) {
    EXPECT_TRUE(bytes == 0 || bytes >= 4000) << bytes;
  }
}

TEST(SavePlannerTest, TensorParallelWithZeroIsBalanced) {
  // tp 2 x dp 3: weights are cut by columns and held three times, moments by flat ranges of each part.
  const Dims shape = {120, 64};
  std::vector<Manifest> ranks;
  for (int rank = 0; rank < 6; ++rank) {
    const Box column = {{0, 32 * (rank % 2)}, {120, 32}};
    std::vector<Box> flat;
    const int64_t third = 120 * 32 / 3;
    for (Box box : FlatRangeToBoxes(column.sizes, third * (rank / 2), third * (rank / 2 + 1))) {
      box.offsets[1] += column.offsets[1];
      flat.push_back(box);
    }
    ranks.push_back(ManifestOf({Meta("w", shape, {column}, DType::kBF16), Meta("w/exp_avg", shape, flat)}));
  }

  ASSERT_OK_AND_ASSIGN(const SavePlan plan, Plan(ranks));

  Check(ranks, plan);
  EXPECT_LT(Imbalance(plan), 1.05);
}

TEST(SavePlannerTest, EqualInputGivesEqualPlans) {
  const Manifest all = ManifestOf({Meta("a", {50, 3}), Meta("b", {17}), Meta("c", {})});
  ASSERT_OK_AND_ASSIGN(const SavePlan one, Plan({all, all, all}));
  ASSERT_OK_AND_ASSIGN(const SavePlan two, Plan({all, all, all}));

  for (int rank = 0; rank < 3; ++rank) {
    ASSERT_EQ(one.writes[rank].size(), two.writes[rank].size());
    for (size_t i = 0; i < one.writes[rank].size(); ++i) {
      EXPECT_EQ(one.writes[rank][i].tensor, two.writes[rank][i].tensor);
      EXPECT_EQ(one.writes[rank][i].box, two.writes[rank][i].box);
    }
  }
}

TEST(SavePlannerTest, WhatNobodyHoldsIsNamed) {
  EXPECT_THAT(
      Plan({ManifestOf({Meta("w", {4, 2}, {{{0, 0}, {2, 2}}})}), ManifestOf({Meta("w", {4, 2}, {{{3, 0}, {1, 2}}})})}),
      IsKind(ErrorKind::kMissing, HasSubstr("\"w\": no rank holds [2:3, 0:2] of shape [4, 2]")));
}

TEST(SavePlannerTest, RanksThatDisagreeAboutATensorAreRefused) {
  EXPECT_THAT(Plan({ManifestOf({Meta("w", {4})}), ManifestOf({Meta("w", {5})})}),
              IsKind(ErrorKind::kShape, HasSubstr("[5] on rank 1, [4] on rank 0")));
  EXPECT_THAT(Plan({ManifestOf({Meta("w", {4})}), ManifestOf({Meta("w", {4}, {}, DType::kBF16)})}),
              IsKind(ErrorKind::kDType, HasSubstr("BF16 on rank 1")));
}

TEST(SavePlannerTest, BoxesOutsideOfTheShapeAreRefused) {
  EXPECT_THAT(Plan({ManifestOf({Meta("w", {4}, {{{2}, {3}}})})}), IsKind(ErrorKind::kRequest));
}

TEST(SavePlannerTest, TensorsWithoutElementsAreKnownAndWrittenByNobody) {
  ASSERT_OK_AND_ASSIGN(const SavePlan plan, Plan({ManifestOf({Meta("empty", {0, 3})})}));

  EXPECT_EQ(plan.tensors.Find("empty"), 0);
  EXPECT_TRUE(plan.writes[0].empty());
}

}  // namespace
}  // namespace waypoint
