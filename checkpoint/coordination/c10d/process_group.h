#ifndef CHECKPOINT_COORDINATION_C10D_PROCESS_GROUP_H_
#define CHECKPOINT_COORDINATION_C10D_PROCESS_GROUP_H_

// Process groups, with c10d's own names: for what speaks through them.  The one file that knows what of them differs
// between libtorch 1.13 and 2, and between builds with and without NCCL.  Throws what c10d throws.  Thread-safe.

#include <torch/csrc/api/include/torch/version.h>

#include <functional>
#include <string>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#if TORCH_VERSION_MAJOR >= 2
#include <torch/csrc/distributed/c10d/Backend.hpp>
#endif

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace waypoint {

// What has the collectives: in libtorch 2 a ProcessGroup is a bundle of such.
#if TORCH_VERSION_MAJOR >= 2
using GroupBackend = c10d::Backend;
#else
using GroupBackend = c10d::ProcessGroup;
#endif

// Whether groups over NCCL can be made: this program was built for it (`--define cuda=1`).
bool HasNccl();

// For tensors in host memory.  Waits until all `size` members are there, which find each other through keys of `store`
// under `name`.  The network interface is that of GLOO_SOCKET_IFNAME or, without it, the loopback one where the store
// is served there, else the one of this host's name.
c10::intrusive_ptr<GroupBackend> NewGlooGroup(const c10::intrusive_ptr<c10d::TCPStore>& store, const std::string& host,
                                              const std::string& name, int index, int size, absl::Duration timeout);

// For tensors on GPUs, one per member; only where HasNccl.  Members meet at the first call.  NCCL looks for the network
// itself (NCCL_SOCKET_IFNAME).  Waits end after `timeout`, unless the environment says otherwise
// (TORCH_NCCL_BLOCKING_WAIT, before libtorch 2.2 NCCL_BLOCKING_WAIT).
c10::intrusive_ptr<GroupBackend> NewNcclGroup(const c10::intrusive_ptr<c10d::TCPStore>& store, const std::string& name,
                                              int index, int size, absl::Duration timeout);

// What `connect` makes, which may wait for other members: in a thread of its own, while `watch` is asked now and then
// whether they still can come.  When it says no, that is returned, and the thread is left to its timeout.  Errors:
// E_RANK with what `connect` threw, those of `watch`.
absl::StatusOr<c10::intrusive_ptr<GroupBackend>> ConnectWatched(
    std::function<c10::intrusive_ptr<GroupBackend>()> connect, const std::function<absl::Status()>& watch);

}  // namespace waypoint

#endif  // CHECKPOINT_COORDINATION_C10D_PROCESS_GROUP_H_
