#ifndef CHECKPOINT_PLAN_READ_PLAN_H_
#define CHECKPOINT_PLAN_READ_PLAN_H_

// Where the elements of a box lie when a tensor is stored in parts.
//
//   WAYPOINT_ASSIGN_OR_RETURN(const ReadPlan plan, ReadPlan::Create(name, shape, std::move(stored_boxes)));
//   for (const StoredPart& part : plan.Find(wanted)) { ... }
//
// Pure geometry.  Thread-compatible: const methods may run concurrently.

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "checkpoint/plan/box_index.h"
#include "checkpoint/tensor/box.h"

namespace waypoint {

struct StoredPart {
  int64_t stored = 0;  // index of the stored box
  Box box;             // what it gives, in global coordinates
};

class ReadPlan {
 public:
  // Checks that the stored boxes make up the tensor: E_SCHEMA for a box outside of the shape, E_AMBIGUOUS for two that
  // overlap, E_MISSING naming a range that no box covers.  O(n log n).
  static absl::StatusOr<ReadPlan> Create(absl::string_view tensor_name, const Dims& shape, std::vector<Box> stored);

  const std::vector<Box>& stored() const { return index_.boxes(); }

  // Disjoint parts that cover `wanted`, which lies inside the shape; ascending by stored index.
  std::vector<StoredPart> Find(const Box& wanted) const;

 private:
  explicit ReadPlan(std::vector<Box> stored) : index_(std::move(stored)) {}

  BoxIndex index_;
};

}  // namespace waypoint

#endif  // CHECKPOINT_PLAN_READ_PLAN_H_
