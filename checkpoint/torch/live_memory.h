#ifndef CHECKPOINT_TORCH_LIVE_MEMORY_H_
#define CHECKPOINT_TORCH_LIVE_MEMORY_H_

// Live libtorch tensors for asynchronous saves.
//
//   WAYPOINT_ASSIGN_OR_RETURN(auto arena, SnapshotArena::Create(ArenaBytesFor(state), {}));
//   WAYPOINT_RETURN_IF_ERROR(MoveToArena(state, arena));        // once, for write-protect snapshots
//   WAYPOINT_ASSIGN_OR_RETURN(const MemoryState memory, LiveMemory(state));
//   WAYPOINT_RETURN_IF_ERROR(saver.Save(memory, write).status());
//
// One thread; what LiveMemory returns may be read by any.

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoint/async/memory_state.h"
#include "checkpoint/async/snapshot_arena.h"
#include "checkpoint/torch/tensor_bridge.h"

namespace waypoint {

// The tensors' memory, shared and kept alive; tensors on a device, and conjugate or negative views, are fetched by
// copy_.  Errors: E_DTYPE, E_DUP_KEY; E_REQUEST for tensors that are not dense or whose box does not describe them.
absl::StatusOr<MemoryState> LiveMemory(const LiveState& state);

// Bytes of an arena that the storages of a state fit in.
int64_t ArenaBytesFor(const LiveState& state);

// Moves the storages of CPU tensors, values kept: every tensor and view that shares one of them lives in the arena from
// now on, parameters under autograd included.  Pointers that were taken before are invalid.  E_LIMIT when the arena is
// too small; a storage is moved whole or not at all.
absl::Status MoveToArena(const LiveState& state, const std::shared_ptr<SnapshotArena>& arena);

}  // namespace waypoint

#endif  // CHECKPOINT_TORCH_LIVE_MEMORY_H_
