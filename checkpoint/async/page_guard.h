#ifndef CHECKPOINT_ASYNC_PAGE_GUARD_H_
#define CHECKPOINT_ASYNC_PAGE_GUARD_H_

// Snapshots of memory by write protection (Linux userfaultfd).
//
// Protect takes no copy: it makes the pages read-only.  The first write to one stops the writing thread until a thread
// of ours has copied the page to a reserve and made it writable again.  That thread copies and never waits for
// anything else, so that a slow disk does not slow the writer of the memory.
//
//   WAYPOINT_ASSIGN_OR_RETURN(auto guard, PageGuard::Create(memory.data(), memory.size_bytes(), reserve_bytes));
//   WAYPOINT_RETURN_IF_ERROR(guard->Protect({range}));
//   ... others write to the memory; guard->Read(...) gives what was there before ...
//   guard->Release();
//
// Protect and Release: one thread at a time.  Read: thread-safe between the two.

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "checkpoint/async/host_memory.h"
#include "checkpoint/async/memory_state.h"
#include "checkpoint/tensor/box.h"

namespace waypoint {

struct GuardStats {
  // Of the snapshot that was released last, or of the one that runs.
  int64_t pages_protected = 0;
  int64_t pages_copied = 0;
};

class PageGuard {
 public:
  // Pages are protected and copied in this unit, so that huge pages stay whole.
  static constexpr int64_t kPageBytes = kHugePageBytes;

  // [data, data + bytes): huge pages of a HostMemory that were populated; outlives the guard.  At most reserve_bytes of
  // copies are kept.  Errors: E_UNSUPPORTED with the reason when the kernel has no write protection or does not allow
  // it to this process; E_LIMIT for no memory.
  static absl::StatusOr<std::unique_ptr<PageGuard>> Create(char* data, int64_t bytes, int64_t reserve_bytes);
  ~PageGuard();

  // Ranges inside the memory, rounded to pages here.  On an error nothing is protected.  E_LOCKED while another
  // snapshot runs; E_UNSUPPORTED when the kernel refuses, for ever once it refused to lift a protection.
  absl::Status Protect(absl::Span<const AddressRange> ranges);

  // Copies from protected memory as it was at the time of Protect.  E_LIMIT when a page was overwritten after the
  // reserve was full.
  absl::Status Read(const StridedSpan& from, const StridedSpan& to) const;

  // Ends the snapshot.  OK without one.
  void Release();

  GuardStats stats() const;

 private:
  enum PageState : uint8_t {
    kFree,    // not in the snapshot
    kLive,    // as it was, in place
    kCopied,  // as it was, in the reserve
    kLost,    // overwritten
  };

  PageGuard(char* data, HostMemory reserve, int64_t reserve_pages, int64_t pages);

  absl::Status Open();
  bool ChangeProtection(const char* begin, int64_t bytes, bool protect) const;
  // Lifts it, for good where the kernel refuses to do so for now: whoever writes there must not wait for ever.
  void Unprotect(const char* begin, int64_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void HandleFaults();
  void HandleFault(int64_t page);
  int64_t PageOf(const char* address) const { return (address - data_) / kPageBytes; }

  char* const data_;
  HostMemory reserve_;  // page i of the memory is copied to page i
  const int64_t reserve_pages_;
  std::vector<std::atomic<uint8_t>> states_;
  int faults_ = -1;  // userfaultfd
  int stop_ = -1;    // eventfd
  std::thread handler_;

  // Orders the end of a snapshot with a page that is being copied for it.
  mutable std::mutex mutex_;
  GuardStats stats_ ABSL_GUARDED_BY(mutex_);
  bool active_ ABSL_GUARDED_BY(mutex_) = false;  // between Protect and Release
  absl::Status broken_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace waypoint

#endif  // CHECKPOINT_ASYNC_PAGE_GUARD_H_
