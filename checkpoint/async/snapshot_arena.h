#ifndef CHECKPOINT_ASYNC_SNAPSHOT_ARENA_H_
#define CHECKPOINT_ASYNC_SNAPSHOT_ARENA_H_

// Memory in which tensors live that are snapshotted by write protection: huge pages of our own, so that protecting
// them disturbs nothing else and takes microseconds per GiB.
//
//   WAYPOINT_ASSIGN_OR_RETURN(auto arena, SnapshotArena::Create(bytes, {}));
//   WAYPOINT_ASSIGN_OR_RETURN(char* weights, arena->Allocate(weights_bytes));
//
// Allocate: one thread at a time.  Whatever lives in the arena shares its ownership.

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoint/async/host_memory.h"
#include "checkpoint/async/memory_state.h"
#include "checkpoint/async/page_guard.h"

namespace waypoint {

struct ArenaOptions {
  // False: no snapshots without a copy; the arena is then only memory in huge pages.
  bool write_protect = true;
  // Most bytes of pages that are overwritten while a snapshot of them is being saved.  When more are, that save fails
  // and the tensors' owner never waits.  Negative: as many as the arena has.
  int64_t reserve_bytes = -1;
};

class SnapshotArena {
 public:
  static constexpr int64_t kAlignment = 64;

  // All its pages are there when this returns.  E_LIMIT when there is no such memory.  That the kernel refuses write
  // protection is no error, see refusal().
  static absl::StatusOr<std::shared_ptr<SnapshotArena>> Create(int64_t bytes, const ArenaOptions& options);

  // Zeroed, aligned to kAlignment, never given back.  E_LIMIT when the arena is full.
  absl::StatusOr<char*> Allocate(int64_t bytes);

  bool Contains(const AddressRange& range) const;
  int64_t size_bytes() const { return memory_.size_bytes(); }

  // Null when snapshots need a copy; refusal() then says why.
  PageGuard* guard() const { return guard_.get(); }
  const std::string& refusal() const { return refusal_; }

 private:
  explicit SnapshotArena(HostMemory memory) : memory_(std::move(memory)) {}

  HostMemory memory_;
  int64_t used_bytes_ = 0;
  std::unique_ptr<PageGuard> guard_;
  std::string refusal_;
};

}  // namespace waypoint

#endif  // CHECKPOINT_ASYNC_SNAPSHOT_ARENA_H_
