#ifndef CHECKPOINT_COORDINATION_C10D_C10D_OPTIONS_H_
#define CHECKPOINT_COORDINATION_C10D_C10D_OPTIONS_H_

// Which rank of which job this process is.  Names nothing of libtorch.  Thread-safe.

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "checkpoint/coordination/wait_hooks.h"

namespace waypoint {

struct C10dOptions {
  int rank = 0;
  int world_size = 1;
  // Where rank 0 serves, and listens (listen_address.h).
  std::string host = "127.0.0.1";
  // 0, on rank 0: any free one; see C10dCoordinator::port().
  int port = 0;
  // False: another process serves a store there already (torchrun's agent).  It is only asked where rank 0 serves ours.
  bool rank_0_serves = true;
  // Tells coordinators of one job, and attempts of one job, apart.
  std::string name = "checkpoint";
  // To reach the store.  Each call of a coordinator then waits for answers of it as long as for other ranks, but never
  // less than twice stall_timeout.
  absl::Duration connect_timeout = absl::Minutes(5);
  // How long the store waits for the rest of a message that has begun to arrive, or to be taken.  A rank that is
  // stopped there keeps all others waiting as long, and is then cut off.  Longer than the pauses that a job must bear:
  // of a network that sends anew, of a virtual machine that is moved.
  absl::Duration stall_timeout = absl::Seconds(15);
  // Rank 0's says for all: a rank whose host does not answer its network for about so long is taken for dead, as is, at
  // once, one whose process is gone; see rank_watch.h.  0: nobody is watched, and deaths are found out by timeouts.
  absl::Duration host_timeout = absl::Seconds(30);
  // How long rank 0 serves on for ranks that have not left.
  absl::Duration linger = absl::Seconds(5);
  // For waits of the coordinator's calls.
  WaitHooks hooks;
};

// From RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT as torchrun and others set them; one process where RANK and
// WORLD_SIZE are unset. E_REQUEST names the variable that is missing or no number.
absl::StatusOr<C10dOptions> C10dOptionsFromEnvironment();

}  // namespace waypoint

#endif  // CHECKPOINT_COORDINATION_C10D_C10D_OPTIONS_H_
