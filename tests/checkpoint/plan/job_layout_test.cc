#include "checkpoint/plan/job_layout.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/rank_state.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Manifest Named(const std::vector<std::string>& names) {
  Manifest manifest;
  for (const std::string& name : names) {
    TensorMeta meta;
    meta.name = name;
    meta.dtype = DType::kF32;
    meta.shape = {4};
    EXPECT_OK(manifest.Add(meta));
  }
  return manifest;
}

std::vector<std::string> Merged(const std::vector<Manifest>& held) {
  std::vector<std::string> names;
  for (const auto& [rank, index] : MergeTensorOrders(held)) {
    names.push_back(held[rank][index].name);
  }
  return names;
}

TEST(MergeTensorOrdersTest, ReplicasHaveOnePlace) {
  EXPECT_THAT(Merged({Named({"a", "b", "c"}), Named({"a", "c"}), Named({"b", "c"})}), ElementsAre("a", "b", "c"));
}

TEST(MergeTensorOrdersTest, StagesFollowEachOther) {
  EXPECT_THAT(Merged({Named({"embeddings", "decoder.0.w", "decoder.1.w"}), Named({"decoder.2.w", "head"})}),
              ElementsAre("embeddings", "decoder.0.w", "decoder.1.w", "decoder.2.w", "head"));
}

TEST(MergeTensorOrdersTest, InterleavedStagesAreInterleaved) {
  EXPECT_THAT(
      Merged({Named({"embeddings", "decoder.0.w", "decoder.9.w"}), Named({"decoder.8.w", "decoder.10.w", "head"})}),
      ElementsAre("embeddings", "decoder.0.w", "decoder.8.w", "decoder.9.w", "decoder.10.w", "head"));
}

TEST(MergeTensorOrdersTest, AParameterComesBeforeItsState) {
  EXPECT_THAT(Merged({Named({"l.0.w/exp_avg", "l.1.w"}), Named({"l.0.w", "l.0.w/exp_avg_sq"})}),
              ElementsAre("l.0.w", "l.0.w/exp_avg", "l.0.w/exp_avg_sq", "l.1.w"));
}

TEST(MergeTensorOrdersTest, RanksThatContradictEachOtherStillGiveAllTensorsOnce) {
  EXPECT_THAT(Merged({Named({"a", "b"}), Named({"b", "a", "c"})}), ElementsAre("a", "b", "c"));
}

Manifest State() {
  Manifest state;
  for (const Dims& shape : {Dims{7, 5}, Dims{3, 4, 6}, Dims{40}, Dims{}}) {
    TensorMeta meta;
    // Optimizer state, which ZeRO cuts.
    meta.name = absl::StrCat("t.", state.size(), "/exp_avg");
    meta.dtype = DType::kBF16;
    meta.shape = shape;
    EXPECT_OK(state.Add(meta));
  }
  return state;
}

// Elements of a box, as 1s in a map of the tensor.
void Mark(const TensorMeta& meta, const Box& box, std::vector<int>* map) {
  std::vector<char> nothing(1);
  StridedSpan span = StridedSpan::Contiguous(nothing.data(), 1, box.sizes);
  ForEachRun(meta.shape, box, span, [&](int64_t begin, int64_t elements, char*, int64_t) {
    for (int64_t i = begin; i < begin + elements; ++i) {
      ++(*map)[i];
    }
  });
}

TEST(JobLayoutTest, HeldAndMissingPartsMakeUpEveryTensorOnce) {
  const Manifest state = State();
  for (const Layout layout : {Rows, Columns, Flat, Stages, Replicated, TensorParallelZero}) {
    for (const int world_size : {1, 2, 3, 4}) {
      std::vector<Manifest> held;
      for (int rank = 0; rank < world_size; ++rank) {
        held.push_back(RankManifest(state, layout, rank, world_size));
      }
      ASSERT_OK_AND_ASSIGN(const JobLayout job, JobLayout::Create(held));
      EXPECT_EQ(job.all_hold_all(), layout == Replicated || world_size == 1);
      for (int rank = 0; rank < world_size; ++rank) {
        for (int64_t tensor = 0; tensor < job.tensors().size(); ++tensor) {
          const TensorMeta& meta = job.tensors()[tensor];
          std::vector<int> map(meta.num_elements());
          const int64_t own = held[rank].Find(meta.name);
          for (const Box& box : own < 0 ? std::vector<Box>() : held[rank][own].boxes) {
            Mark(meta, box, &map);
          }
          job.ForEachMissing(rank, tensor, Box::Whole(meta.shape), [&](int from, const Box& part) {
            EXPECT_NE(from, rank);
            Mark(meta, part, &map);
            // Whoever gives it has it in one of its boxes.
            bool gives = false;
            for (const Box& box : held[from][held[from].Find(meta.name)].boxes) {
              gives = gives || Intersect(box, part) == part;
            }
            EXPECT_TRUE(gives);
          });
          EXPECT_THAT(map, ::testing::Each(1));
        }
      }
    }
  }
}

TEST(JobLayoutTest, WhatNobodyHoldsIsAnError) {
  EXPECT_THAT(JobLayout::Create({RankManifest(State(), Rows, 0, 2)}),
              IsKind(ErrorKind::kMissing, HasSubstr("no rank holds")));
}

}  // namespace
}  // namespace waypoint
