#include "checkpoint/async/page_guard.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/base/dynamic_annotations.h"
#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/aligned_buffer.h"
#include "checkpoint/base/catch_allocation.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/start_thread.h"
#include "checkpoint/base/status_macros.h"

// From Linux 5.11 on; missing in older headers.
#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

namespace waypoint {
namespace {

absl::Status Refused(absl::string_view call) {
  const int error = errno;
  return MakeError(ErrorKind::kUnsupported,
                   absl::StrCat("write protection by userfaultfd: ", call, ": ", std::strerror(error),
                                error == EPERM || error == EACCES
                                    ? "; needs CAP_SYS_PTRACE, vm.unprivileged_userfaultfd = 1 or access to "
                                      "/dev/userfaultfd"
                                    : ""));
}

// Faults of the kernel's own writes (a read() into a tensor) must be handled too, which is what needs the privilege.
absl::StatusOr<int> OpenUserfaultfd() {
  const int direct = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
  if (direct >= 0) {
    return direct;
  }
  const absl::Status refused = Refused("opening");
  const int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
  if (device < 0) {
    return refused;
  }
  const int opened = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
  close(device);
  return opened >= 0 ? absl::StatusOr<int>(opened) : refused;
}

// Reads memory that the kernel keeps others from writing meanwhile, or whose copy is thrown away if one did; neither is
// known to ThreadSanitizer.
class IgnoreReads {
 public:
  IgnoreReads() { ABSL_ANNOTATE_IGNORE_READS_BEGIN(); }
  ~IgnoreReads() { ABSL_ANNOTATE_IGNORE_READS_END(); }
};

// The dimension whose halves lie farthest apart.
int WidestDimension(const StridedSpan& span) {
  int widest = -1;
  for (int d = 0; d < static_cast<int>(span.sizes.size()); ++d) {
    if (span.sizes[d] > 1 && (widest < 0 || span.strides[d] > span.strides[widest])) {
      widest = d;
    }
  }
  return widest;
}

}  // namespace

PageGuard::PageGuard(char* data, HostMemory reserve, int64_t reserve_pages, int64_t pages)
    : data_(data), reserve_(std::move(reserve)), reserve_pages_(reserve_pages), states_(pages) {}

absl::StatusOr<std::unique_ptr<PageGuard>> PageGuard::Create(char* data, int64_t bytes, int64_t reserve_bytes) {
  WAYPOINT_ASSIGN_OR_RETURN(HostMemory reserve, HostMemory::Map(bytes));
  auto guard =
      absl::WrapUnique(new PageGuard(data, std::move(reserve), reserve_bytes / kPageBytes, bytes / kPageBytes));
  WAYPOINT_RETURN_IF_ERROR(guard->Open());
  return guard;
}

absl::Status PageGuard::Open() {
  WAYPOINT_ASSIGN_OR_RETURN(faults_, OpenUserfaultfd());
  uffdio_api api = {};
  api.api = UFFD_API;
  api.features = UFFD_FEATURE_PAGEFAULT_FLAG_WP;
  if (ioctl(faults_, UFFDIO_API, &api) != 0) {
    return Refused("agreeing on its features");
  }
  uffdio_register registration = {};
  registration.range.start = reinterpret_cast<uintptr_t>(data_);
  registration.range.len = states_.size() * kPageBytes;
  registration.mode = UFFDIO_REGISTER_MODE_WP;
  if (ioctl(faults_, UFFDIO_REGISTER, &registration) != 0) {
    return Refused("registering memory");
  }
  if ((registration.ioctls & (uint64_t{1} << _UFFDIO_WRITEPROTECT)) == 0) {
    errno = EOPNOTSUPP;
    return Refused("registering memory");
  }
  // What is refused is better refused here than at the first snapshot.
  if (!ChangeProtection(data_, kPageBytes, true) || !ChangeProtection(data_, kPageBytes, false)) {
    return Refused("protecting a page");
  }
  stop_ = eventfd(0, EFD_CLOEXEC);
  if (stop_ < 0) {
    return ErrnoError(errno, "eventfd");
  }
  WAYPOINT_ASSIGN_OR_RETURN(handler_, StartThread([this] { HandleFaults(); }));
  return absl::OkStatus();
}

PageGuard::~PageGuard() {
  if (handler_.joinable()) {
    Release();
    const uint64_t one = 1;
    const ssize_t written = write(stop_, &one, sizeof(one));
    static_cast<void>(written);  // cannot fail: the counter is 0
    handler_.join();
  }
  if (stop_ >= 0) {
    close(stop_);
  }
  if (faults_ >= 0) {
    close(faults_);
  }
}

bool PageGuard::ChangeProtection(const char* begin, int64_t bytes, bool protect) const {
  uffdio_writeprotect request = {};
  request.range.start = reinterpret_cast<uintptr_t>(begin);
  request.range.len = bytes;
  request.mode = protect ? UFFDIO_WRITEPROTECT_MODE_WP : 0;
  int result = ioctl(faults_, UFFDIO_WRITEPROTECT, &request);
  // The address space is changing in another thread.
  while (result != 0 && (errno == EAGAIN || errno == EINTR)) {
    result = ioctl(faults_, UFFDIO_WRITEPROTECT, &request);
  }
  return result == 0;
}

void PageGuard::Unprotect(const char* begin, int64_t bytes) {
  if (ChangeProtection(begin, bytes, false)) {
    return;
  }
  // Runs in a thread that others wait for.
  broken_.Update(
      CatchAllocation("the words for an error", "", [] { return Refused("lifting the protection of memory"); }));
  // Memory that is not registered has no protection.  Who waits for it already must be woken by a call of its own: the
  // kernel (6.18) does that on unregistering for missing pages only.
  uffdio_range range = {};
  range.start = reinterpret_cast<uintptr_t>(begin);
  range.len = bytes;
  ioctl(faults_, UFFDIO_UNREGISTER, &range);
  ioctl(faults_, UFFDIO_WAKE, &range);
}

absl::Status PageGuard::Protect(absl::Span<const AddressRange> ranges) {
  const std::lock_guard<std::mutex> lock(mutex_);
  WAYPOINT_RETURN_IF_ERROR(broken_);
  if (active_) {
    return MakeError(ErrorKind::kLocked, "a snapshot of the arena is being saved already, by another saver");
  }
  stats_ = GuardStats();
  for (const AddressRange& range : ranges) {
    if (range.begin == range.end) {
      continue;
    }
    for (int64_t page = PageOf(range.begin); page <= PageOf(range.end - 1); ++page) {
      states_[page].store(kLive, std::memory_order_relaxed);
    }
  }
  absl::Status status;
  const int64_t pages = static_cast<int64_t>(states_.size());
  for (int64_t begin = 0; begin < pages && status.ok();) {
    int64_t end = begin;
    while (end < pages && states_[end].load(std::memory_order_relaxed) == kLive) {
      ++end;
    }
    if (end > begin && !ChangeProtection(data_ + begin * kPageBytes, (end - begin) * kPageBytes, true)) {
      status = Refused("protecting memory");
    }
    stats_.pages_protected += end - begin;
    begin = end + 1;
  }
  if (!status.ok()) {
    for (std::atomic<uint8_t>& state : states_) {
      state.store(kFree, std::memory_order_relaxed);
    }
    Unprotect(data_, pages * kPageBytes);
  }
  active_ = status.ok();
  return status;
}

void PageGuard::Release() {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (std::atomic<uint8_t>& state : states_) {
    state.store(kFree, std::memory_order_relaxed);
  }
  active_ = false;
  // Wakes whoever waits for one of the pages, too.
  Unprotect(data_, static_cast<int64_t>(states_.size()) * kPageBytes);
  // Copies of other pages would add to those of the next snapshot.
  if (reserve_pages_ < static_cast<int64_t>(states_.size())) {
    reserve_.Discard();
  }
}

GuardStats PageGuard::stats() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return stats_;
}

void PageGuard::HandleFaults() {
  for (;;) {
    pollfd polled[2] = {{faults_, POLLIN, 0}, {stop_, POLLIN, 0}};
    if (poll(polled, 2, -1) < 0) {
      continue;  // a signal
    }
    if (polled[1].revents != 0) {
      return;
    }
    uffd_msg message;
    while (read(faults_, &message, sizeof(message)) == static_cast<ssize_t>(sizeof(message))) {
      if (message.event == UFFD_EVENT_PAGEFAULT) {
        HandleFault(PageOf(reinterpret_cast<const char*>(message.arg.pagefault.address)));
      }
    }
  }
}

void PageGuard::HandleFault(int64_t page) {
  const std::lock_guard<std::mutex> lock(mutex_);
  char* const live = data_ + page * kPageBytes;
  if (states_[page].load(std::memory_order_relaxed) == kLive) {
    if (stats_.pages_copied < reserve_pages_) {
      const IgnoreReads ignore;
      std::memcpy(reserve_.data() + page * kPageBytes, live, kPageBytes);
      ++stats_.pages_copied;
      // Before the page can be written: a reader that saw a new byte also sees this.
      states_[page].store(kCopied, std::memory_order_release);
    } else {
      states_[page].store(kLost, std::memory_order_release);
    }
  }
  Unprotect(live, kPageBytes);
}

absl::Status PageGuard::Read(const StridedSpan& from, const StridedSpan& to) const {
  const AddressRange range = AddressesOf(from);
  if (range.begin == range.end) {
    return absl::OkStatus();
  }
  const int64_t first = PageOf(range.begin);
  const int64_t last = PageOf(range.end - 1);
  for (;;) {
    int64_t live = 0;
    int64_t copied = 0;
    for (int64_t page = first; page <= last; ++page) {
      const uint8_t state = states_[page].load(std::memory_order_acquire);
      if (state == kLost) {
        return MakeError(
            ErrorKind::kLimit,
            absl::StrCat("overwritten before it was saved, and the reserve of ", reserve_pages_ * kPageBytes,
                         " bytes was full; give the arena a larger reserve, or copy instead"));
      }
      live += state == kLive ? 1 : 0;
      copied += state == kCopied ? 1 : 0;
    }
    const int64_t pages = last - first + 1;
    if (copied == pages) {
      StridedSpan reserve = from;
      reserve.data = reserve_.data() + (from.data - data_);
      CopyStrided(reserve, to);
      return absl::OkStatus();
    }
    if (live == pages) {
      {
        const IgnoreReads ignore;
        CopyStrided(from, to);
      }
      bool still = true;
      for (int64_t page = first; page <= last; ++page) {
        // A read-modify-write sees the newest state, and the copy above cannot move behind it.
        auto& state = const_cast<std::atomic<uint8_t>&>(states_[page]);
        still = still && state.fetch_or(0, std::memory_order_acq_rel) == kLive;
      }
      if (still) {
        return absl::OkStatus();
      }
      continue;
    }
    const int dim = WidestDimension(from);
    if (live + copied != pages || dim < 0) {
      return absl::InternalError("read of memory that is not in the snapshot");
    }
    const int64_t half = from.sizes[dim] / 2;
    WAYPOINT_RETURN_IF_ERROR(Read(from.Narrow(dim, 0, half), to.Narrow(dim, 0, half)));
    return Read(from.Narrow(dim, half, from.sizes[dim] - half), to.Narrow(dim, half, from.sizes[dim] - half));
  }
}

}  // namespace waypoint
