#ifndef CHECKPOINT_COORDINATION_THREAD_EXCHANGE_H_
#define CHECKPOINT_COORDINATION_THREAD_EXCHANGE_H_

// Exchange between ranks that are threads of one process: each copies what is meant for it out of the others' buffers.

#include <memory>
#include <vector>

#include "checkpoint/coordination/exchange.h"

namespace waypoint {

// One per coordinator of a job, by rank; those are borrowed.  Each may move to a thread of its own and outlive the
// others.
std::vector<std::unique_ptr<Exchange>> NewThreadExchanges(const std::vector<Coordinator*>& ranks);

}  // namespace waypoint

#endif  // CHECKPOINT_COORDINATION_THREAD_EXCHANGE_H_
