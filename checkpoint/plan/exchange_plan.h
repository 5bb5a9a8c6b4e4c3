#ifndef CHECKPOINT_PLAN_EXCHANGE_PLAN_H_
#define CHECKPOINT_PLAN_EXCHANGE_PLAN_H_

// In which rounds ranks hand each other what their blocks of common files need, so that no rank stages more than a
// given number of bytes in any round.
//
//   ExchangePlanner planner(layout, {max_staged_bytes}, num_blocks, block_needs);
//   while (true) {
//     WAYPOINT_ASSIGN_OR_RETURN(const ExchangeRound round, planner.Next());
//     if (round.empty()) break;
//     ... exchange round.parts, fill round.blocks[rank] ...
//   }
//
// Pure; equal input gives equal rounds, so each rank plans by itself and none tells another what it wants.  Rounds are
// made one at a time: memory does not grow with the number of blocks.  One thread.

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "checkpoint/plan/job_layout.h"
#include "checkpoint/plan/save_plan.h"

namespace waypoint {

// Staged parts begin at multiples of this.
inline constexpr int64_t kStagedAlignment = 64;

// Blocks [first, second) of `blocks` belong to `rank`: neighbours, about as many for every rank.
std::pair<int64_t, int64_t> ShareOfBlocks(int64_t blocks, int rank, int world_size);

// What a block is made of: boxes of the job's tensors.
struct BlockNeeds {
  int64_t bytes = 0;  // of the block
  std::vector<PlannedBox> boxes;
};

struct ExchangedPart {
  int32_t from = 0;
  int32_t to = 0;
  int64_t tensor = 0;
  Box box;
  int64_t bytes = 0;  // rounded up to kStagedAlignment
};

struct ExchangeRound {
  std::vector<std::vector<int64_t>> blocks;  // by rank
  // By sender, then receiver: the order in which they lie in the buffers of both.
  std::vector<ExchangedPart> parts;

  bool empty() const;
  // What `rank` sends and receives.
  int64_t staged_bytes(int rank) const;
};

struct ExchangePlanOptions {
  // Per rank and round, sent and received together.
  int64_t max_staged_bytes = int64_t{32} << 20;
  // Per rank and round, so that ranks that need nothing from others do not run far ahead of those that do.
  int64_t max_block_bytes = int64_t{256} << 20;
};

class ExchangePlanner {
 public:
  // `layout` is borrowed.  `needs` is asked about each block once, on every rank.
  ExchangePlanner(const JobLayout& layout, const ExchangePlanOptions& options, int64_t num_blocks,
                  std::function<BlockNeeds(int64_t block)> needs);

  // An empty round after the last one.  E_REQUEST when a single block needs more than the bound.
  absl::StatusOr<ExchangeRound> Next();

 private:
  // The next block of a rank.
  struct Pending {
    bool known = false;
    int64_t bytes = 0;
    std::vector<ExchangedPart> parts;
  };

  const Pending& Peek(int rank);

  const JobLayout& layout_;
  const ExchangePlanOptions options_;
  const std::function<BlockNeeds(int64_t block)> needs_;
  std::vector<std::pair<int64_t, int64_t>> left_;  // by rank: blocks [first, second)
  std::vector<Pending> pending_;                   // by rank
  int first_ = 0;                                  // who chooses first in the next round
};

}  // namespace waypoint

#endif  // CHECKPOINT_PLAN_EXCHANGE_PLAN_H_
