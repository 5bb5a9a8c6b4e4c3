#ifndef CHECKPOINT_PLAN_BOX_INDEX_H_
#define CHECKPOINT_PLAN_BOX_INDEX_H_

// Which of many boxes of one tensor have something in common with another box.
//
//   const BoxIndex index(stored);
//   index.ForEachOverlap(wanted, [&](int64_t i) { ...; return true; });
//
// A tree of bounding boxes: made in O(n log n), asked in O(log n + hits) where boxes do not overlap each other.
// Thread-compatible: const methods may run concurrently.

#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/types/optional.h"
#include "checkpoint/tensor/box.h"

namespace waypoint {

class BoxIndex {
 public:
  // All of the same rank.
  explicit BoxIndex(std::vector<Box> boxes);

  const std::vector<Box>& boxes() const { return boxes_; }

  // Visits each box that overlaps (empty ones never do), in an order that only depends on the boxes, until `visit`
  // returns false.
  void ForEachOverlap(const Box& box, absl::FunctionRef<bool(int64_t index)> visit) const;

  // A part of `region` that no box covers; empty when all of it is covered.
  absl::optional<Box> FindHole(const Box& region) const;

 private:
  struct Node {
    Box bounds;
    int64_t begin = 0;  // of order_
    int64_t end = 0;
    int64_t right = 0;  // the left child follows its parent; 0: a leaf
  };

  int64_t Build(int64_t begin, int64_t end);

  std::vector<Box> boxes_;
  std::vector<int64_t> order_;
  std::vector<Node> nodes_;
};

// The boxes, disjoint and at most 2 * rank, that are in `from` and not in `taken`.
std::vector<Box> Subtract(const Box& from, const Box& taken);

}  // namespace waypoint

#endif  // CHECKPOINT_PLAN_BOX_INDEX_H_
