#ifndef CHECKPOINT_COORDINATION_THREAD_COORDINATOR_H_
#define CHECKPOINT_COORDINATION_THREAD_COORDINATOR_H_

// A job whose ranks are threads of one process: for tests, and for programs that split work over threads.
//
//   std::vector<std::unique_ptr<Coordinator>> ranks = NewThreadCoordinators(4);
//   std::thread([mine = std::move(ranks[2])] { ... mine->Barrier("ready", timeout) ... });
//
// A rank leaves the job by destroying its coordinator; whoever then waits for it, or calls later, gets E_RANK at once.

#include <memory>
#include <vector>

#include "checkpoint/coordination/coordinator.h"

namespace waypoint {

// By rank.  Each may move to a thread of its own and may outlive the others.
std::vector<std::unique_ptr<Coordinator>> NewThreadCoordinators(int world_size);

}  // namespace waypoint

#endif  // CHECKPOINT_COORDINATION_THREAD_COORDINATOR_H_
