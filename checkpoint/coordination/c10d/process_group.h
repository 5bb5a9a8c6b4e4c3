#ifndef CHECKPOINT_COORDINATION_C10D_PROCESS_GROUP_H_
#define CHECKPOINT_COORDINATION_C10D_PROCESS_GROUP_H_

// Process groups, with c10d's own names: for what speaks through them.  The one file that knows what of them differs
// between libtorch 1.13 and 2, and between builds with and without NCCL.  Throws what c10d throws, but where a Status
// is returned.  Thread-safe.
//
// ConnectWatched sets environment variables of libtorch, once: its record of calls is off unless TORCH_FR_BUFFER_SIZE
// asks for it, and over NCCL its watchdogs do not end the process.

#include <torch/csrc/api/include/torch/version.h>

#include <functional>
#include <string>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <vector>
#if TORCH_VERSION_MAJOR >= 2
#include <torch/csrc/distributed/c10d/Backend.hpp>
#endif

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "c10/core/Device.h"

namespace waypoint {

// What has the collectives: in libtorch 2 a ProcessGroup is a bundle of such.
#if TORCH_VERSION_MAJOR >= 2
using GroupBackend = c10d::Backend;
#else
using GroupBackend = c10d::ProcessGroup;
#endif

// Whether groups over NCCL can be made: this program was built with a libtorch that has it (third_party/torch).
bool HasNccl();

// For tensors in host memory.  Waits until all `size` members are there, which find each other through keys of `store`
// under `name`.  The network interface is that of GLOO_SOCKET_IFNAME or, without it, the loopback one where the store
// is served there, else the one of this host's name.
c10::intrusive_ptr<GroupBackend> NewGlooGroup(const c10::intrusive_ptr<c10d::TCPStore>& store, const std::string& host,
                                              const std::string& name, int index, int size, absl::Duration timeout);

// Two members that send each other tensors, by index.
struct MemberPair {
  int first = 0;
  int second = 0;
};

// For tensors on GPUs, one per member; only where HasNccl.  Waits until all members are there, then until each of
// `pairs`, which are the same in the same order on all members, has met.  NCCL would connect those at their first
// message, and wait there without end for a member that is gone; here, ConnectWatched leaves it, and `watch` says when
// it has.  What calls of the group begin must be waited for by WaitWatched.  NCCL looks for the network by itself
// (NCCL_SOCKET_IFNAME).
c10::intrusive_ptr<GroupBackend> NewNcclGroup(const c10::intrusive_ptr<c10d::TCPStore>& store, const std::string& name,
                                              int index, int size, c10::Device device,
                                              const std::vector<MemberPair>& pairs,
                                              const std::function<absl::Status()>& watch);

// Ends a group, its work too: members that wait for this one over Gloo learn it at once.  Throws nothing.
void EndGroup(c10::intrusive_ptr<GroupBackend> group);

// Waits for what a call of a group over NCCL began, until all that it does is done.  When `watch`, which is asked now
// and then, says that some member will not come, or after `timeout`, the work is given up, and that is thrown.
void WaitWatched(c10d::Work& work, absl::Duration timeout, const std::function<absl::Status()>& watch);

// What `connect` makes, which may wait for other members: in a thread of its own, while `watch` is asked now and then
// whether they still can come.  When it says no, that is returned, and the thread is left to itself.  Errors: E_RANK
// with what `connect` threw, those of `watch`.
absl::StatusOr<c10::intrusive_ptr<GroupBackend>> ConnectWatched(
    std::function<c10::intrusive_ptr<GroupBackend>()> connect, const std::function<absl::Status()>& watch);

}  // namespace waypoint

#endif  // CHECKPOINT_COORDINATION_C10D_PROCESS_GROUP_H_
