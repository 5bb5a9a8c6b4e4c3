#include "checkpoint/plan/job_layout.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/numbers.h"
#include "absl/strings/string_view.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/plan/save_plan.h"

namespace waypoint {
namespace {

// "decoder." of "decoder.12.mlp.weight", and 12; an empty group for names without a number.
struct Group {
  absl::string_view prefix;
  int64_t number = 0;
};

Group GroupOf(absl::string_view name) {
  Group group;
  const size_t begin = name.find_first_of("0123456789");
  if (begin == absl::string_view::npos) {
    return group;
  }
  const size_t end = std::min(name.find_first_not_of("0123456789", begin), name.size());
  if (absl::SimpleAtoi(name.substr(begin, end - begin), &group.number)) {
    group.prefix = name.substr(0, begin);
  }
  return group;
}

// Of two tensors that may both come next.  False where nothing speaks for `a`.
bool ComesBefore(absl::string_view a, absl::string_view b, const Group& last) {
  const Group group_a = GroupOf(a);
  const Group group_b = GroupOf(b);
  const bool a_continues = !group_a.prefix.empty() && group_a.prefix == last.prefix;
  const bool b_continues = !group_b.prefix.empty() && group_b.prefix == last.prefix;
  if (a_continues != b_continues) {
    return a_continues;
  }
  if (!group_a.prefix.empty() && group_a.prefix == group_b.prefix && group_a.number != group_b.number) {
    return group_a.number < group_b.number;
  }
  // A parameter, then its optimizer state.
  return a.substr(0, a.find('/')) == b.substr(0, b.find('/')) && a < b;
}

void Cut(std::vector<Box>* boxes, const Box& taken) {
  std::vector<Box> left;
  for (const Box& box : *boxes) {
    for (Box& piece : Subtract(box, taken)) {
      left.push_back(std::move(piece));
    }
  }
  *boxes = std::move(left);
}

}  // namespace

std::vector<std::pair<int, int64_t>> MergeTensorOrders(const std::vector<Manifest>& held) {
  const auto world_size = static_cast<int>(held.size());
  // How many ranks have a tensor, and at how many of them it is the next one.
  struct Count {
    int holders = 0;
    int next = 0;
    bool done = false;
  };
  absl::flat_hash_map<absl::string_view, Count> counts;
  for (const Manifest& manifest : held) {
    for (const TensorMeta& meta : manifest.tensors()) {
      ++counts[meta.name].holders;
    }
  }
  std::vector<int64_t> next(world_size, 0);
  const auto advance = [&](int rank) {
    while (next[rank] < held[rank].size() && counts[held[rank][next[rank]].name].done) {
      ++next[rank];
    }
    if (next[rank] < held[rank].size()) {
      ++counts[held[rank][next[rank]].name].next;
    }
  };
  for (int rank = 0; rank < world_size; ++rank) {
    advance(rank);
  }
  std::vector<std::pair<int, int64_t>> order;
  order.reserve(counts.size());
  Group last;
  while (order.size() < counts.size()) {
    int best = -1;
    int first = -1;
    for (int rank = 0; rank < world_size; ++rank) {
      if (next[rank] == held[rank].size()) {
        continue;
      }
      first = first < 0 ? rank : first;
      const absl::string_view name = held[rank][next[rank]].name;
      const Count& count = counts[name];
      if (count.next < count.holders) {
        continue;
      }
      if (best < 0 || ComesBefore(name, held[best][next[best]].name, last)) {
        best = rank;
      }
    }
    // Ranks that contradict each other: the lowest one is right.
    best = best < 0 ? first : best;
    const TensorMeta& meta = held[best][next[best]];
    order.emplace_back(best, next[best]);
    counts[meta.name].done = true;
    last = GroupOf(meta.name);
    for (int rank = 0; rank < world_size; ++rank) {
      if (next[rank] < held[rank].size() && held[rank][next[rank]].name == meta.name) {
        advance(rank);
      }
    }
  }
  return order;
}

absl::StatusOr<JobLayout> JobLayout::Create(const std::vector<Manifest>& held) {
  SavePlanner planner({});
  for (const Manifest& manifest : held) {
    WAYPOINT_RETURN_IF_ERROR(planner.AddRank(manifest));
  }
  WAYPOINT_ASSIGN_OR_RETURN(const SavePlan plan, std::move(planner).Finish());
  JobLayout layout;
  layout.world_size_ = static_cast<int>(held.size());
  for (const auto& [rank, index] : MergeTensorOrders(held)) {
    TensorMeta meta = held[rank][index];
    meta.boxes.clear();
    WAYPOINT_RETURN_IF_ERROR(layout.tensors_.Add(std::move(meta)));
  }
  const int64_t tensors = layout.tensors_.size();
  layout.held_.resize(tensors);
  layout.all_hold_all_ = true;
  for (int rank = 0; rank < layout.world_size_; ++rank) {
    layout.all_hold_all_ = layout.all_hold_all_ && held[rank].size() == tensors;
    for (const TensorMeta& meta : held[rank].tensors()) {
      const int64_t tensor = layout.tensors_.Find(meta.name);
      const Box whole = Box::Whole(meta.shape);
      layout.all_hold_all_ =
          layout.all_hold_all_ && (meta.boxes.empty() || (meta.boxes.size() == 1 && meta.boxes[0] == whole));
      for (const Box& box : meta.boxes.empty() ? std::vector<Box>{whole} : meta.boxes) {
        layout.held_[tensor].ranks.push_back(rank);
        layout.held_[tensor].boxes.push_back(box);
      }
    }
  }
  std::vector<std::vector<Box>> boxes(tensors);
  std::vector<std::vector<int32_t>> ranks(tensors);
  for (int rank = 0; rank < layout.world_size_; ++rank) {
    for (const PlannedBox& write : plan.writes[rank]) {
      const int64_t tensor = layout.tensors_.Find(plan.tensors[write.tensor].name);
      boxes[tensor].push_back(write.box);
      ranks[tensor].push_back(rank);
    }
  }
  for (int64_t tensor = 0; tensor < tensors; ++tensor) {
    layout.givers_.push_back({BoxIndex(std::move(boxes[tensor])), std::move(ranks[tensor])});
  }
  return layout;
}

void JobLayout::ForEachMissing(int rank, int64_t tensor, const Box& box,
                               absl::FunctionRef<void(int from, const Box& part)> visit) const {
  std::vector<Box> missing = {box};
  // A rank has few boxes of a tensor, many ranks may have the same one.
  const Held& held = held_[tensor];
  const auto own = std::equal_range(held.ranks.begin(), held.ranks.end(), rank);
  for (auto it = own.first; it != own.second && !missing.empty(); ++it) {
    Cut(&missing, held.boxes[it - held.ranks.begin()]);
  }
  const Givers& givers = givers_[tensor];
  for (const Box& part : missing) {
    givers.index.ForEachOverlap(part, [&](int64_t i) {
      visit(givers.ranks[i], *Intersect(part, givers.index.boxes()[i]));
      return true;
    });
  }
}

}  // namespace waypoint
