#ifndef CHECKPOINT_COORDINATION_C10D_C10D_COORDINATOR_H_
#define CHECKPOINT_COORDINATION_C10D_C10D_COORDINATOR_H_

// Ranks that are processes, on one host or many: messages through a c10d TCPStore of our own, beside whatever process
// groups the trainer has.
//
//   WAYPOINT_ASSIGN_OR_RETURN(const C10dOptions options, C10dOptionsFromEnvironment());   // torchrun, Slurm, a script
//   WAYPOINT_ASSIGN_OR_RETURN(std::unique_ptr<C10dCoordinator> coordinator, C10dCoordinator::Create(options));
//
// Rank 0 serves the store. A rank leaves by destroying its coordinator; rank 0 then serves on, for a bounded time, until the others have
// left too.

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "c10/util/intrusive_ptr.h"
#include "checkpoint/coordination/store_coordinator.h"

namespace c10d {
class TCPStore;
}

namespace waypoint {

struct C10dOptions {
  int rank = 0;
  int world_size = 1;
  // Where rank 0 serves.
  std::string host = "127.0.0.1";
  // 0, on rank 0: any free one; see port().
  int port = 0;
  // False: another process serves the store already (torchrun's agent).
  bool rank_0_serves = true;
  // Tells coordinators of one job, and attempts of one job, apart.
  std::string name = "checkpoint";
  // To reach the store, and for each single answer of it.
  absl::Duration connect_timeout = absl::Minutes(5);
  // How long rank 0 serves on for ranks that have not left.
  absl::Duration linger = absl::Seconds(5);
};

// From RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT as torchrun and others set them; one process where RANK and
// WORLD_SIZE are unset. E_REQUEST names the variable that is missing or no number.
absl::StatusOr<C10dOptions> C10dOptionsFromEnvironment();

class C10dCoordinator : public StoreCoordinator {
 public:
  // E_RANK when the store cannot be reached, E_REQUEST for a rank outside of the job.
  static absl::StatusOr<std::unique_ptr<C10dCoordinator>> Create(const C10dOptions& options);
  ~C10dCoordinator() override;

  // Where the store is served.
  int port() const { return options_.port; }
  const C10dOptions& options() const { return options_; }
  // For process groups of ours, which keep it as long as they live.
  c10::intrusive_ptr<c10d::TCPStore> store() const;

 private:
  C10dCoordinator(const C10dOptions& options, c10::intrusive_ptr<c10d::TCPStore> store);

  const C10dOptions options_;
  const c10::intrusive_ptr<c10d::TCPStore> store_;
};

}  // namespace waypoint

#endif  // CHECKPOINT_COORDINATION_C10D_C10D_COORDINATOR_H_
