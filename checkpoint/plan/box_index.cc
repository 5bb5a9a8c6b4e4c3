#include "checkpoint/plan/box_index.h"

#include <algorithm>
#include <utility>

namespace waypoint {
namespace {

constexpr int64_t kLeafBoxes = 8;

int64_t End(const Box& box, int dim) { return box.offsets[dim] + box.sizes[dim]; }

// Smallest box around both.
void Extend(const Box& box, Box* bounds) {
  for (int d = 0; d < box.rank(); ++d) {
    const int64_t end = std::max(End(*bounds, d), End(box, d));
    bounds->offsets[d] = std::min(bounds->offsets[d], box.offsets[d]);
    bounds->sizes[d] = end - bounds->offsets[d];
  }
}

bool Overlap(const Box& a, const Box& b) {
  for (int d = 0; d < a.rank(); ++d) {
    if (std::max(a.offsets[d], b.offsets[d]) >= std::min(End(a, d), End(b, d))) {
      return false;
    }
  }
  return true;
}

}  // namespace

BoxIndex::BoxIndex(std::vector<Box> boxes) : boxes_(std::move(boxes)) {
  for (size_t i = 0; i < boxes_.size(); ++i) {
    if (!boxes_[i].empty()) {
      order_.push_back(static_cast<int64_t>(i));
    }
  }
  if (!order_.empty()) {
    Build(0, static_cast<int64_t>(order_.size()));
  }
}

int64_t BoxIndex::Build(int64_t begin, int64_t end) {
  const auto index = static_cast<int64_t>(nodes_.size());
  nodes_.emplace_back();
  Box bounds = boxes_[order_[begin]];
  Dims first = bounds.offsets;
  Dims last = bounds.offsets;
  for (int64_t i = begin + 1; i < end; ++i) {
    const Box& box = boxes_[order_[i]];
    Extend(box, &bounds);
    for (int d = 0; d < box.rank(); ++d) {
      first[d] = std::min(first[d], box.offsets[d]);
      last[d] = std::max(last[d], box.offsets[d]);
    }
  }
  int64_t right = 0;
  if (end - begin > kLeafBoxes) {
    // Halves along the dimension in which the boxes are spread most, seen against the size of all.
    int dim = 0;
    double widest = -1;
    for (int d = 0; d < bounds.rank(); ++d) {
      const double spread = static_cast<double>(last[d] - first[d]) / static_cast<double>(bounds.sizes[d]);
      if (spread > widest) {
        widest = spread;
        dim = d;
      }
    }
    const int64_t middle = begin + (end - begin) / 2;
    if (bounds.rank() > 0) {
      std::nth_element(order_.begin() + begin, order_.begin() + middle, order_.begin() + end,
                       [this, dim](int64_t a, int64_t b) {
                         return std::make_pair(boxes_[a].offsets[dim], a) < std::make_pair(boxes_[b].offsets[dim], b);
                       });
    }
    Build(begin, middle);
    right = Build(middle, end);
  }
  nodes_[index] = {std::move(bounds), begin, end, right};
  return index;
}

void BoxIndex::ForEachOverlap(const Box& box, absl::FunctionRef<bool(int64_t)> visit) const {
  if (nodes_.empty() || box.empty()) {
    return;
  }
  absl::InlinedVector<int64_t, 64> open = {0};
  while (!open.empty()) {
    const int64_t index = open.back();
    open.pop_back();
    const Node& node = nodes_[index];
    if (!Overlap(node.bounds, box)) {
      continue;
    }
    if (node.right > 0) {
      open.push_back(node.right);
      open.push_back(index + 1);
      continue;
    }
    for (int64_t i = node.begin; i < node.end; ++i) {
      if (Overlap(boxes_[order_[i]], box) && !visit(order_[i])) {
        return;
      }
    }
  }
}

absl::optional<Box> BoxIndex::FindHole(const Box& region) const {
  std::vector<Box> open = {region};
  while (!open.empty()) {
    const Box box = std::move(open.back());
    open.pop_back();
    if (box.empty()) {
      continue;
    }
    int64_t hit = -1;
    ForEachOverlap(box, [&hit](int64_t index) {
      hit = index;
      return false;
    });
    if (hit < 0) {
      return box;
    }
    // The first part is looked at first, so that the hole with the lowest offsets is the likeliest to be named.
    std::vector<Box> rest = Subtract(box, boxes_[hit]);
    open.insert(open.end(), std::make_move_iterator(rest.rbegin()), std::make_move_iterator(rest.rend()));
  }
  return absl::nullopt;
}

std::vector<Box> Subtract(const Box& from, const Box& taken) {
  const absl::optional<Box> common = Intersect(from, taken);
  if (!common.has_value()) {
    return {from};
  }
  std::vector<Box> rest;
  Box left = from;  // what the dimensions before d leave
  for (int d = 0; d < from.rank(); ++d) {
    if (left.offsets[d] < common->offsets[d]) {
      Box before = left;
      before.sizes[d] = common->offsets[d] - left.offsets[d];
      rest.push_back(std::move(before));
    }
    if (End(*common, d) < End(left, d)) {
      Box after = left;
      after.offsets[d] = End(*common, d);
      after.sizes[d] = End(left, d) - End(*common, d);
      rest.push_back(std::move(after));
    }
    left.offsets[d] = common->offsets[d];
    left.sizes[d] = common->sizes[d];
  }
  return rest;
}

}  // namespace waypoint
