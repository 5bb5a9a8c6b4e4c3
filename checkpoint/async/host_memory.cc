#include "checkpoint/async/host_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/aligned_buffer.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/start_thread.h"

namespace waypoint {
namespace {

constexpr int64_t kSmallPageBytes = 4096;

absl::Status MemoryError(int error, int64_t bytes, absl::string_view what) {
  return NoMemoryError(bytes, absl::StrCat("copies of the state: ", what, ": ", std::strerror(error)),
                       "lower what the process holds, or save without checkpoint.async");
}

// 0 or an errno.  Touches pages without changing them, for kernels before 5.14.
int PopulateRange(char* begin, int64_t bytes) {
#ifdef MADV_POPULATE_WRITE
  if (madvise(begin, bytes, MADV_POPULATE_WRITE) == 0) {
    return 0;
  }
  if (errno != EINVAL) {
    return errno;
  }
#endif
  for (int64_t offset = 0; offset < bytes; offset += kSmallPageBytes) {
    volatile char* byte = begin + offset;
    *byte = *byte;
  }
  return 0;
}

}  // namespace

HostMemory::HostMemory(HostMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

HostMemory& HostMemory::operator=(HostMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

HostMemory::~HostMemory() {
  if (data_ != nullptr) {
    munmap(data_, bytes_);
  }
}

absl::StatusOr<HostMemory> HostMemory::Map(int64_t bytes) {
  const int64_t rounded = AlignUp(std::max<int64_t>(bytes, 1), kHugePageBytes);
  const int64_t mapped = rounded + kHugePageBytes;
  void* const start = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (start == MAP_FAILED) {
    return MemoryError(errno, bytes, "allocation");
  }
  char* const first = static_cast<char*>(start);
  char* const aligned = reinterpret_cast<char*>(AlignUp(reinterpret_cast<intptr_t>(first), kHugePageBytes));
  if (aligned != first) {
    munmap(first, aligned - first);
  }
  if (const int64_t rest = first + mapped - (aligned + rounded); rest > 0) {
    munmap(aligned + rounded, rest);
  }
  // Refused only by kernels without huge pages, where small ones serve.
  madvise(aligned, rounded, MADV_HUGEPAGE);
  HostMemory memory;
  memory.data_ = aligned;
  memory.bytes_ = rounded;
  return memory;
}

absl::Status HostMemory::Populate(int threads) {
  std::atomic<int> error{0};  // of whichever thread had one
  const int64_t part = AlignUp((bytes_ + threads - 1) / threads, kHugePageBytes);
  const auto populate = [&](int64_t begin) {
    if (begin < bytes_) {
      if (const int failed = PopulateRange(data_ + begin, std::min(part, bytes_ - begin)); failed != 0) {
        error = failed;
      }
    }
  };
  std::vector<std::thread> others;
  others.reserve(threads);
  for (int i = 1; i < threads; ++i) {
    absl::StatusOr<std::thread> other = StartThread([&populate, begin = part * i] { populate(begin); });
    if (other.ok()) {
      others.push_back(*std::move(other));
    } else {
      populate(part * i);
    }
  }
  populate(0);
  for (std::thread& other : others) {
    other.join();
  }
  return error == 0 ? absl::OkStatus() : MemoryError(error, bytes_, "population");
}

void HostMemory::Discard() {
  if (data_ != nullptr) {
    madvise(data_, bytes_, MADV_DONTNEED);
  }
}

}  // namespace waypoint
