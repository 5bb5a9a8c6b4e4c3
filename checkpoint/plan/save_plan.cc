#include "checkpoint/plan/save_plan.h"

#include <algorithm>
#include <numeric>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/plan/box_index.h"

namespace waypoint {
namespace {

// Bytes that each owner gets so that the owners' loads become as equal as `bytes` more allow.
std::vector<int64_t> Quotas(const std::vector<int64_t>& loads, int64_t bytes) {
  std::vector<int64_t> sorted = loads;
  std::sort(sorted.begin(), sorted.end());
  // The lowest loads are filled up to the next one, as water would.
  int64_t level = 0;
  int64_t left = bytes;
  int64_t filled = 0;
  for (size_t i = 0; i < sorted.size(); ++i) {
    const auto width = static_cast<int64_t>(i + 1);
    filled = width;
    level = sorted[i];
    const bool last = i + 1 == sorted.size();
    // A quotient, since width * step may not fit.
    if (last || left / width < sorted[i + 1] - sorted[i]) {
      break;
    }
    left -= width * (sorted[i + 1] - sorted[i]);
  }
  level += left / filled;
  int64_t rest = left % filled;
  std::vector<int64_t> quotas;
  for (const int64_t load : loads) {
    const int64_t quota = std::max<int64_t>(level - load, 0);
    const int64_t extra = load <= level && rest > 0 ? 1 : 0;
    rest -= extra;
    quotas.push_back(quota + extra);
  }
  return quotas;
}

// Where a box may be cut: its first dimension that has more than one slice; -1 for none.
int CutDimension(const Box& box) {
  for (int d = 0; d < box.rank(); ++d) {
    if (box.sizes[d] > 1) {
      return d;
    }
  }
  return -1;
}

}  // namespace

absl::Status SavePlanner::AddRank(const Manifest& manifest) {
  const int32_t rank = world_size_++;
  for (const TensorMeta& tensor : manifest.tensors()) {
    int64_t index = tensors_.Find(tensor.name);
    if (index < 0) {
      index = tensors_.size();
      TensorMeta whole = tensor;
      whole.boxes.clear();
      WAYPOINT_RETURN_IF_ERROR(tensors_.Add(std::move(whole)));
      first_rank_.push_back(rank);
      held_.emplace_back();
    }
    const TensorMeta& known = tensors_[index];
    if (known.shape != tensor.shape) {
      return MakeError(ErrorKind::kShape,
                       absl::StrCat("tensor \"", tensor.name, "\" has shape ", ShapeString(tensor.shape), " on rank ",
                                    rank, ", ", ShapeString(known.shape), " on rank ", first_rank_[index]));
    }
    if (known.dtype != tensor.dtype) {
      return MakeError(ErrorKind::kDType,
                       absl::StrCat("tensor \"", tensor.name, "\" is ", DTypeName(tensor.dtype), " on rank ", rank,
                                    ", ", DTypeName(known.dtype), " on rank ", first_rank_[index]));
    }
    if (tensor.boxes.empty()) {
      held_[index].push_back({Box::Whole(tensor.shape), rank});
    }
    for (const Box& box : tensor.boxes) {
      if (!Contains(tensor.shape, box)) {
        return MakeError(ErrorKind::kRequest,
                         absl::StrCat("tensor \"", tensor.name, "\": rank ", rank, " holds ", box.ToString(),
                                      ", outside of shape ", ShapeString(tensor.shape)));
      }
      held_[index].push_back({box, rank});
    }
  }
  return absl::OkStatus();
}

absl::Status SavePlanner::AddTensor(int64_t tensor, SavePlan* plan) {
  std::vector<Held>& held = held_[tensor];
  std::sort(held.begin(), held.end(), [](const Held& a, const Held& b) {
    return std::tie(a.box.offsets, a.box.sizes, a.rank) < std::tie(b.box.offsets, b.box.sizes, b.rank);
  });
  // Equal boxes with all who hold them.
  std::vector<Box> boxes;
  std::vector<Owners> owners;
  for (Held& one : held) {
    if (one.box.empty()) {
      continue;
    }
    if (boxes.empty() || boxes.back() != one.box) {
      boxes.push_back(std::move(one.box));
      owners.emplace_back();
    }
    if (owners.back().empty() || owners.back().back() != one.rank) {
      owners.back().push_back(one.rank);
    }
  }
  std::vector<Held>().swap(held);

  // Small boxes first: a larger one that overlaps them gives up what they have, and its ranks may write that too.
  std::vector<int64_t> order(boxes.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&boxes](int64_t a, int64_t b) { return boxes[a].num_elements() < boxes[b].num_elements(); });
  std::vector<int64_t> place(boxes.size());
  for (size_t i = 0; i < order.size(); ++i) {
    place[order[i]] = static_cast<int64_t>(i);
  }
  const BoxIndex index(std::move(boxes));
  std::vector<std::vector<std::pair<Box, Owners>>> parts(owners.size());
  int64_t elements = 0;
  for (const int64_t i : order) {
    std::vector<Box> rest = {index.boxes()[i]};
    index.ForEachOverlap(index.boxes()[i], [&](int64_t other) {
      if (place[other] >= place[i]) {
        return true;
      }
      for (auto& [part, part_owners] : parts[other]) {
        const absl::optional<Box> common = Intersect(part, index.boxes()[i]);
        if (!common.has_value()) {
          continue;
        }
        if (*common == part) {
          Owners all;
          std::set_union(part_owners.begin(), part_owners.end(), owners[i].begin(), owners[i].end(),
                         std::back_inserter(all));
          part_owners = std::move(all);
        }
        std::vector<Box> left;
        for (const Box& box : rest) {
          for (Box& piece : Subtract(box, part)) {
            left.push_back(std::move(piece));
          }
        }
        rest = std::move(left);
      }
      return true;
    });
    for (Box& box : rest) {
      elements += box.num_elements();
      parts[i].emplace_back(std::move(box), owners[i]);
    }
  }
  const TensorMeta& meta = tensors_[tensor];
  if (elements != meta.num_elements()) {
    const absl::optional<Box> hole = index.FindHole(Box::Whole(meta.shape));
    return MakeError(ErrorKind::kMissing,
                     absl::StrCat("tensor \"", meta.name, "\": no rank holds ",
                                  hole.has_value() ? hole->ToString() : "all", " of shape ", ShapeString(meta.shape)));
  }
  for (const auto& of_box : parts) {
    for (const auto& [part, part_owners] : of_box) {
      AddRegion(tensor, part, part_owners, plan);
    }
  }
  return absl::OkStatus();
}

void SavePlanner::AddRegion(int64_t tensor, const Box& box, const Owners& owners, SavePlan* plan) {
  const int64_t bytes = box.num_elements() * DTypeBits(tensors_[tensor].dtype) / 8;
  if (owners.size() == 1) {
    Write(owners[0], {tensor, box, bytes}, plan);
    return;
  }
  const auto [it, added] = shared_index_.emplace(owners, shared_.size());
  if (added) {
    shared_.emplace_back(owners, std::vector<Region>());
  }
  shared_[it->second].second.push_back({tensor, box, bytes});
}

void SavePlanner::Write(int32_t rank, const Region& region, SavePlan* plan) {
  plan->writes[rank].push_back({region.tensor, region.box});
  plan->bytes[rank] += region.bytes;
}

void SavePlanner::ShareOut(const Owners& owners, const std::vector<Region>& regions, SavePlan* plan) const {
  int64_t total = 0;
  std::vector<int64_t> loads;
  for (const Region& region : regions) {
    total += region.bytes;
  }
  for (const int32_t rank : owners) {
    loads.push_back(plan->bytes[rank]);
  }
  const std::vector<int64_t> quotas = Quotas(loads, total);
  size_t owner = 0;
  int64_t quota = quotas[0];
  const auto next_owner = [&] { quota += quotas[++owner]; };  // what one got too much, the next gets less
  for (Region region : regions) {
    while (true) {
      while (quota <= 0 && owner + 1 < owners.size()) {
        next_owner();
      }
      if (quota >= region.bytes || owner + 1 == owners.size()) {
        break;
      }
      const int dim = CutDimension(region.box);
      const int64_t slice_bytes = dim < 0 ? region.bytes : region.bytes / region.box.sizes[dim];
      const int64_t slices = (quota + slice_bytes / 2) / slice_bytes;
      const int64_t part_bytes = slices * slice_bytes;
      if (dim < 0 || slices <= 0 || slices >= region.box.sizes[dim] || part_bytes < options_.min_part_bytes ||
          region.bytes - part_bytes < options_.min_part_bytes || DTypeBytes(tensors_[region.tensor].dtype) == 0) {
        if (quota < region.bytes / 2) {
          next_owner();
          continue;
        }
        break;
      }
      Region part = region;
      part.box.sizes[dim] = slices;
      part.bytes = part_bytes;
      Write(owners[owner], part, plan);
      quota -= part_bytes;
      region.box.offsets[dim] += slices;
      region.box.sizes[dim] -= slices;
      region.bytes -= part_bytes;
    }
    Write(owners[owner], region, plan);
    quota -= region.bytes;
  }
}

absl::StatusOr<SavePlan> SavePlanner::Finish() && {
  SavePlan plan;
  plan.writes.resize(world_size_);
  plan.bytes.resize(world_size_, 0);
  for (int64_t tensor = 0; tensor < tensors_.size(); ++tensor) {
    WAYPOINT_RETURN_IF_ERROR(AddTensor(tensor, &plan));
  }
  // Few owners first: who has the choice of more ranks can still even out what they leave.
  std::vector<size_t> order(shared_.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [this](size_t a, size_t b) { return shared_[a].first.size() < shared_[b].first.size(); });
  for (const size_t i : order) {
    ShareOut(shared_[i].first, shared_[i].second, &plan);
  }
  for (std::vector<PlannedBox>& writes : plan.writes) {
    std::sort(writes.begin(), writes.end(), [](const PlannedBox& a, const PlannedBox& b) {
      return std::tie(a.tensor, a.box.offsets) < std::tie(b.tensor, b.box.offsets);
    });
  }
  plan.tensors = std::move(tensors_);
  return plan;
}

}  // namespace waypoint
