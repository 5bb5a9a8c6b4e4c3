#include "checkpoint/plan/exchange_plan.h"

#include <algorithm>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/aligned_buffer.h"
#include "checkpoint/base/error.h"

namespace waypoint {

std::pair<int64_t, int64_t> ShareOfBlocks(int64_t blocks, int rank, int world_size) {
  return {blocks * rank / world_size, blocks * (rank + 1) / world_size};
}

bool ExchangeRound::empty() const {
  return std::all_of(blocks.begin(), blocks.end(), [](const std::vector<int64_t>& mine) { return mine.empty(); });
}

int64_t ExchangeRound::staged_bytes(int rank) const {
  int64_t bytes = 0;
  for (const ExchangedPart& part : parts) {
    bytes += part.from == rank || part.to == rank ? part.bytes : 0;
  }
  return bytes;
}

ExchangePlanner::ExchangePlanner(const JobLayout& layout, const ExchangePlanOptions& options, int64_t num_blocks,
                                 std::function<BlockNeeds(int64_t block)> needs)
    : layout_(layout), options_(options), needs_(std::move(needs)), pending_(layout.world_size()) {
  for (int rank = 0; rank < layout.world_size(); ++rank) {
    left_.push_back(ShareOfBlocks(num_blocks, rank, layout.world_size()));
  }
}

const ExchangePlanner::Pending& ExchangePlanner::Peek(int rank) {
  Pending& pending = pending_[rank];
  if (!pending.known) {
    const BlockNeeds needs = needs_(left_[rank].first);
    pending.known = true;
    pending.bytes = needs.bytes;
    pending.parts.clear();
    for (const PlannedBox& need : needs.boxes) {
      const int64_t element_bytes = DTypeBytes(layout_.tensors()[need.tensor].dtype);
      layout_.ForEachMissing(rank, need.tensor, need.box, [&](int from, const Box& part) {
        pending.parts.push_back(
            {from, rank, need.tensor, part, AlignUp(part.num_elements() * element_bytes, kStagedAlignment)});
      });
    }
  }
  return pending;
}

absl::StatusOr<ExchangeRound> ExchangePlanner::Next() {
  const int world_size = layout_.world_size();
  ExchangeRound round;
  round.blocks.resize(world_size);
  std::vector<int64_t> staged(world_size, 0);
  std::vector<int64_t> taken(world_size, 0);
  std::vector<bool> full(world_size, false);
  int64_t refused_bytes = 0;  // what the first block needed that did not fit into an empty round
  bool progress = true;
  while (progress) {
    progress = false;
    for (int i = 0; i < world_size; ++i) {
      const int rank = (first_ + i) % world_size;
      if (full[rank] || left_[rank].first == left_[rank].second) {
        continue;
      }
      const Pending& pending = Peek(rank);
      bool fits = taken[rank] == 0 || taken[rank] + pending.bytes <= options_.max_block_bytes;
      // Added one by one and taken back, since a rank may be in several parts.
      size_t added = 0;
      for (; fits && added < pending.parts.size(); ++added) {
        const ExchangedPart& part = pending.parts[added];
        staged[part.from] += part.bytes;
        staged[part.to] += part.bytes;
        fits = std::max(staged[part.from], staged[part.to]) <= options_.max_staged_bytes;
      }
      if (!fits) {
        refused_bytes = refused_bytes > 0 ? refused_bytes : staged[rank];
        while (added > 0) {
          const ExchangedPart& part = pending.parts[--added];
          staged[part.from] -= part.bytes;
          staged[part.to] -= part.bytes;
        }
        full[rank] = true;
        continue;
      }
      round.blocks[rank].push_back(left_[rank].first++);
      taken[rank] += pending.bytes;
      round.parts.insert(round.parts.end(), pending.parts.begin(), pending.parts.end());
      pending_[rank].known = false;
      progress = true;
    }
  }
  first_ = (first_ + 1) % world_size;
  if (round.empty() && refused_bytes > 0) {
    return MakeError(ErrorKind::kRequest,
                     absl::StrCat("one block needs more than ", options_.max_staged_bytes,
                                  " bytes from other ranks at a time; allow more or make blocks smaller"));
  }
  std::stable_sort(round.parts.begin(), round.parts.end(), [](const ExchangedPart& a, const ExchangedPart& b) {
    return std::tie(a.from, a.to) < std::tie(b.from, b.to);
  });
  return round;
}

}  // namespace waypoint
