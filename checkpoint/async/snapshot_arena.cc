#include "checkpoint/async/snapshot_arena.h"

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/aligned_buffer.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"

namespace waypoint {
namespace {

constexpr int kPopulateThreads = 2;

}  // namespace

absl::StatusOr<std::shared_ptr<SnapshotArena>> SnapshotArena::Create(int64_t bytes, const ArenaOptions& options) {
  WAYPOINT_ASSIGN_OR_RETURN(HostMemory memory, HostMemory::Map(bytes));
  // Write protection does not hold for pages that are not there.
  WAYPOINT_RETURN_IF_ERROR(memory.Populate(kPopulateThreads));
  std::shared_ptr<SnapshotArena> arena(new SnapshotArena(std::move(memory)));
  if (!options.write_protect) {
    arena->refusal_ = "write protection is switched off for the arena";
    return arena;
  }
  const int64_t size_bytes = arena->size_bytes();
  auto guard = PageGuard::Create(arena->memory_.data(), size_bytes,
                                 options.reserve_bytes < 0 ? size_bytes : options.reserve_bytes);
  if (guard.ok()) {
    arena->guard_ = std::move(*guard);
  } else {
    arena->refusal_ = std::string(guard.status().message());
  }
  return arena;
}

absl::StatusOr<char*> SnapshotArena::Allocate(int64_t bytes) {
  const int64_t begin = AlignUp(used_bytes_, kAlignment);
  if (bytes < 0 || bytes > size_bytes() - begin) {
    return MakeError(ErrorKind::kLimit, absl::StrCat("arena of ", size_bytes(), " bytes has ", size_bytes() - begin,
                                                     " left, not ", bytes));
  }
  used_bytes_ = begin + bytes;
  return memory_.data() + begin;
}

bool SnapshotArena::Contains(const AddressRange& range) const {
  return range.begin >= memory_.data() && range.end <= memory_.data() + size_bytes();
}

}  // namespace waypoint
