#ifndef CHECKPOINT_PLAN_JOB_LAYOUT_H_
#define CHECKPOINT_PLAN_JOB_LAYOUT_H_

// What all ranks of a job hold, and from whom a rank gets what it does not hold.
//
//   WAYPOINT_ASSIGN_OR_RETURN(const JobLayout layout, JobLayout::Create(manifests_by_rank));
//   layout.ForEachMissing(rank, tensor, box, [&](int from, const Box& part) { ... });
//
// Pure geometry; equal input gives equal answers on every rank.  Thread-compatible: const methods may run concurrently.

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "checkpoint/plan/box_index.h"
#include "checkpoint/tensor/manifest.h"

namespace waypoint {

class JobLayout {
 public:
  // By rank.  Errors: as SavePlanner.
  static absl::StatusOr<JobLayout> Create(const std::vector<Manifest>& held);

  // All tensors of the job, whole, in the order of MergeTensorOrders.
  const Manifest& tensors() const { return tensors_; }
  int world_size() const { return world_size_; }
  // Nobody misses anything.
  bool all_hold_all() const { return all_hold_all_; }

  // Disjoint parts that make up what `rank` does not hold of `box`, each with the rank that gives it and holds it in
  // one of its boxes.  What several could give is shared out among them as evenly as the writing of a save.
  void ForEachMissing(int rank, int64_t tensor, const Box& box,
                      absl::FunctionRef<void(int from, const Box& part)> visit) const;

 private:
  struct Held {
    std::vector<int32_t> ranks;  // by box, ascending
    std::vector<Box> boxes;
  };
  struct Givers {
    BoxIndex index;
    std::vector<int32_t> ranks;  // by box
  };

  int world_size_ = 0;
  bool all_hold_all_ = false;
  Manifest tensors_;
  std::vector<Held> held_;      // by tensor: every box that a rank holds
  std::vector<Givers> givers_;  // by tensor: disjoint, each with the one rank that gives it
};

// One order of all tensors in which those of each rank keep theirs, as far as that is possible: the order that one rank
// with all tensors would have, where layers are shared out over pipeline stages, interleaved or not.  Where ranks leave
// the choice, what continues a numbered group ("decoder.3." after "decoder.2.") comes first, lower numbers before
// higher ones, a parameter before its optimizer state, then lower ranks.  The result has positions: (rank, index into
// its manifest).
std::vector<std::pair<int, int64_t>> MergeTensorOrders(const std::vector<Manifest>& held);

}  // namespace waypoint

#endif  // CHECKPOINT_PLAN_JOB_LAYOUT_H_
