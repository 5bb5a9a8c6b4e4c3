#ifndef CHECKPOINT_PLAN_SAVE_PLAN_H_
#define CHECKPOINT_PLAN_SAVE_PLAN_H_

// Who writes what when many ranks hold parts of the same tensors, some of them several times.
//
//   SavePlanner planner({});
//   for (const Manifest& manifest : manifests_by_rank) WAYPOINT_RETURN_IF_ERROR(planner.AddRank(manifest));
//   WAYPOINT_ASSIGN_OR_RETURN(const SavePlan plan, std::move(planner).Finish());
//   for (const PlannedBox& box : plan.writes[rank]) { ... }
//
// Every element is written exactly once, by a rank that holds it.  What several hold is shared out so that every rank
// writes about the same number of bytes; large boxes are cut along their first dimension for that.  Equal input gives
// equal plans, so each rank can make the plan by itself.  Cost O(n log n) in the number of boxes.  One thread.

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoint/tensor/manifest.h"

namespace waypoint {

struct SavePlanOptions {
  // No smaller part is cut off a box that several ranks hold.
  int64_t min_part_bytes = int64_t{64} << 10;
};

struct PlannedBox {
  int64_t tensor = 0;  // index into SavePlan::tensors
  Box box;             // lies in one of the boxes that the rank holds
};

struct SavePlan {
  // All tensors of all ranks, whole, in the order in which the ranks name them.
  Manifest tensors;
  // By rank; ascending by tensor and then by offsets.
  std::vector<std::vector<PlannedBox>> writes;
  // By rank.
  std::vector<int64_t> bytes;
};

class SavePlanner {
 public:
  explicit SavePlanner(const SavePlanOptions& options) : options_(options) {}

  // Ranks in order.  The manifest is not needed afterwards.  Errors: E_DTYPE, E_SHAPE when ranks disagree about a
  // tensor; E_REQUEST for a box outside of its shape.
  absl::Status AddRank(const Manifest& manifest);

  // E_MISSING naming a range that no rank holds.
  absl::StatusOr<SavePlan> Finish() &&;

 private:
  struct Held {
    Box box;
    int32_t rank;
  };
  // A box that one of `owners` is to write.
  struct Region {
    int64_t tensor;
    Box box;
    int64_t bytes;
  };
  using Owners = std::vector<int32_t>;  // ascending

  absl::Status AddTensor(int64_t tensor, SavePlan* plan);
  void AddRegion(int64_t tensor, const Box& box, const Owners& owners, SavePlan* plan);
  void ShareOut(const Owners& owners, const std::vector<Region>& regions, SavePlan* plan) const;
  static void Write(int32_t rank, const Region& region, SavePlan* plan);

  const SavePlanOptions options_;
  int32_t world_size_ = 0;
  Manifest tensors_;
  std::vector<int32_t> first_rank_;      // by tensor: who named it first
  std::vector<std::vector<Held>> held_;  // by tensor
  // What more than one rank holds.
  absl::flat_hash_map<Owners, size_t> shared_index_;
  std::vector<std::pair<Owners, std::vector<Region>>> shared_;
};

}  // namespace waypoint

#endif  // CHECKPOINT_PLAN_SAVE_PLAN_H_
