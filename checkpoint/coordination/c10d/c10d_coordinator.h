#ifndef CHECKPOINT_COORDINATION_C10D_C10D_COORDINATOR_H_
#define CHECKPOINT_COORDINATION_C10D_C10D_COORDINATOR_H_

// Ranks that are processes, on one host or many: messages through a c10d TCPStore of our own, beside whatever process
// groups the trainer has.
//
//   WAYPOINT_ASSIGN_OR_RETURN(const C10dOptions options, C10dOptionsFromEnvironment());   // torchrun, Slurm, a script
//   WAYPOINT_ASSIGN_OR_RETURN(std::unique_ptr<C10dCoordinator> coordinator, C10dCoordinator::Create(options));
//
// Rank 0 serves the store, and on another port watches who lives: that the process of a rank is gone is told to the
// others at once, while one that is stopped or slow has the time that each call gives it. A rank leaves by destroying
// its coordinator; rank 0 then serves on, for a bounded time, until the others have left too.

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "checkpoint/coordination/c10d/c10d_options.h"
#include "checkpoint/coordination/rank_watch.h"
#include "checkpoint/coordination/store_coordinator.h"

namespace waypoint {

class C10dCoordinator : public StoreCoordinator {
 public:
  // E_RANK when the store, or the port at which rank 0 watches, cannot be reached, E_REQUEST for a rank outside of the
  // job.
  static absl::StatusOr<std::unique_ptr<C10dCoordinator>> Create(const C10dOptions& options);
  ~C10dCoordinator() override;

  // Where the store is served.
  int port() const { return options_.port; }
  // With that port.
  const C10dOptions& options() const { return options_; }

 private:
  C10dCoordinator(const C10dOptions& options, std::unique_ptr<MessageStore> store);

  const C10dOptions options_;
  std::unique_ptr<RankWatch> watch_;      // rank 0's
  std::unique_ptr<WatchedRank> watched_;  // of the others
};

}  // namespace waypoint

#endif  // CHECKPOINT_COORDINATION_C10D_C10D_COORDINATOR_H_
