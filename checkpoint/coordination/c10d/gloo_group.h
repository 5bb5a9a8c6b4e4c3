#ifndef CHECKPOINT_COORDINATION_C10D_GLOO_GROUP_H_
#define CHECKPOINT_COORDINATION_C10D_GLOO_GROUP_H_

// Process groups over Gloo, with c10d's own names: for what speaks through them.  Throws what c10d throws. Thread-safe.

#include <string>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "absl/time/time.h"

namespace waypoint {

// Waits until all `size` members are there, which find each other through keys of `store` under `name`.  The network
// interface is that of GLOO_SOCKET_IFNAME or, without it, the loopback one where the store is served there, else the
// one of this host's name.
c10::intrusive_ptr<c10d::ProcessGroupGloo> NewGlooGroup(const c10::intrusive_ptr<c10d::TCPStore>& store,
                                                        const std::string& host, const std::string& name, int index,
                                                        int size, absl::Duration timeout);

}  // namespace waypoint

#endif  // CHECKPOINT_COORDINATION_C10D_GLOO_GROUP_H_
