#include "checkpoint/plan/exchange_plan.h"

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/rank_state.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {
namespace {

using ::testing::HasSubstr;

// Tensors of 256 rows of 64 float32; a block is 4 rows of one: 1 KiB.
constexpr int64_t kRows = 256;
constexpr int64_t kColumns = 64;
constexpr int64_t kRowsPerBlock = 4;
constexpr int64_t kTensors = 5;
constexpr int64_t kBlocksPerTensor = kRows / kRowsPerBlock;
constexpr int64_t kBlocks = kTensors * kBlocksPerTensor;
constexpr int64_t kBlockBytes = kRowsPerBlock * kColumns * 4;

JobLayout LayoutOf(Layout layout, int world_size) {
  Manifest state;
  for (int64_t i = 0; i < kTensors; ++i) {
    TensorMeta meta;
    meta.name = absl::StrCat("t.", i);
    meta.dtype = DType::kF32;
    meta.shape = {kRows, kColumns};
    EXPECT_OK(state.Add(meta));
  }
  std::vector<Manifest> held;
  for (int rank = 0; rank < world_size; ++rank) {
    held.push_back(RankManifest(state, layout, rank, world_size));
  }
  return JobLayout::Create(held).value();
}

BlockNeeds NeedsOf(int64_t block) {
  Box box;
  box.offsets = {block % kBlocksPerTensor * kRowsPerBlock, 0};
  box.sizes = {kRowsPerBlock, kColumns};
  return {kBlockBytes, {{block / kBlocksPerTensor, box}}};
}

std::vector<ExchangeRound> Plan(const JobLayout& layout, const ExchangePlanOptions& options) {
  ExchangePlanner planner(layout, options, kBlocks, NeedsOf);
  std::vector<ExchangeRound> rounds;
  while (true) {
    auto round = planner.Next();
    EXPECT_OK(round);
    if (!round.ok() || round->empty()) {
      return rounds;
    }
    rounds.push_back(*std::move(round));
  }
}

TEST(ExchangePlanTest, EveryBlockIsInOneRoundAndNobodyStagesMoreThanTheBound) {
  for (const Layout layout : {Rows, Columns, Flat, Stages, TensorParallelZero}) {
    for (const int world_size : {2, 3, 4, 6}) {
      const JobLayout job = LayoutOf(layout, world_size);
      ExchangePlanOptions options;
      options.max_staged_bytes = 8 * kBlockBytes;
      std::multiset<int64_t> blocks;

      for (const ExchangeRound& round : Plan(job, options)) {
        for (int rank = 0; rank < world_size; ++rank) {
          EXPECT_LE(round.staged_bytes(rank), options.max_staged_bytes);
          blocks.insert(round.blocks[rank].begin(), round.blocks[rank].end());
          // What its blocks need of others is among the parts.
          int64_t missing = 0;
          for (const int64_t block : round.blocks[rank]) {
            const PlannedBox need = NeedsOf(block).boxes[0];
            job.ForEachMissing(rank, need.tensor, need.box,
                               [&](int, const Box& part) { missing += part.num_elements(); });
          }
          for (const ExchangedPart& part : round.parts) {
            missing -= part.to == rank ? part.box.num_elements() : 0;
            EXPECT_NE(part.from, part.to);
          }
          EXPECT_EQ(missing, 0);
        }
      }

      EXPECT_EQ(blocks.size(), kBlocks);
      EXPECT_EQ(std::set<int64_t>(blocks.begin(), blocks.end()).size(), kBlocks);
    }
  }
}

TEST(ExchangePlanTest, ReplicasSendNothing) {
  for (const ExchangeRound& round : Plan(LayoutOf(Replicated, 3), {})) {
    EXPECT_TRUE(round.parts.empty());
  }
}

TEST(ExchangePlanTest, SendersShareTheWork) {
  const JobLayout job = LayoutOf(Columns, 4);
  std::vector<int64_t> sent(4, 0);
  for (const ExchangeRound& round : Plan(job, {})) {
    for (const ExchangedPart& part : round.parts) {
      sent[part.from] += part.bytes;
    }
  }

  const auto [least, most] = std::minmax_element(sent.begin(), sent.end());
  EXPECT_GT(*least, 0);
  EXPECT_LE(*most, *least * 1.1);
}

TEST(ExchangePlanTest, RoundsAreBoundedByTheirBlocksToo) {
  ExchangePlanOptions options;
  options.max_block_bytes = 3 * kBlockBytes;
  for (const ExchangeRound& round : Plan(LayoutOf(Replicated, 2), options)) {
    for (const std::vector<int64_t>& blocks : round.blocks) {
      EXPECT_LE(blocks.size(), 3u);
    }
  }
}

TEST(ExchangePlanTest, ABlockThatNeedsMoreThanTheBoundIsRefused) {
  const JobLayout job = LayoutOf(Columns, 2);
  ExchangePlanOptions options;
  options.max_staged_bytes = 100;
  ExchangePlanner planner(job, options, kBlocks, NeedsOf);

  EXPECT_THAT(planner.Next(), IsKind(ErrorKind::kRequest, HasSubstr("one block needs more than 100 bytes")));
}

TEST(ExchangePlanTest, SharesAreNeighboursAndCoverAllBlocks) {
  for (const int64_t blocks : {0, 1, 5, 64}) {
    int64_t next = 0;
    for (int rank = 0; rank < 6; ++rank) {
      const auto [begin, end] = ShareOfBlocks(blocks, rank, 6);
      EXPECT_EQ(begin, next);
      EXPECT_LE(end - begin, blocks / 6 + 1);
      next = end;
    }
    EXPECT_EQ(next, blocks);
    EXPECT_EQ(ShareOfBlocks(blocks, 0, 1), std::make_pair(int64_t{0}, blocks));
  }
}

}  // namespace
}  // namespace waypoint
