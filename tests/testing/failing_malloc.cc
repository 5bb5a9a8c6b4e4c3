#include "tests/testing/failing_malloc.h"

#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <initializer_list>
#include <limits>

namespace waypoint {
namespace {

constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

std::atomic<int64_t> count{0};
std::atomic<int64_t> first{kNever};  // that fails
std::atomic<int64_t> last{kNever};
std::atomic<bool> failed{false};

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kAvailable = false;
#else
constexpr bool kAvailable = true;

bool Fails() {
  const int64_t start = first.load(std::memory_order_relaxed);
  if (start == kNever) {
    return false;
  }
  const int64_t index = count.fetch_add(1, std::memory_order_relaxed);
  if (index < start || index > last.load(std::memory_order_relaxed)) {
    return false;
  }
  failed = true;
  errno = ENOMEM;
  return true;
}
#endif

// A signal is what these tests look for; without this nobody learns where.
void Tell(int signal) {
  char text[100];
  const int length = std::snprintf(text, sizeof(text), "signal %d, where allocation %lld failed\n", signal,
                                   static_cast<long long>(first.load()));
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, text, static_cast<size_t>(length));
  std::signal(signal, SIG_DFL);
  raise(signal);
}

}  // namespace

const bool FailingMalloc::available = kAvailable;

FailingMalloc::FailingMalloc(Mode mode, int64_t n) {
  for (const int signal : {SIGABRT, SIGSEGV}) {
    std::signal(signal, Tell);
  }
  failed = false;
  count = 0;
  last = mode == kOnce ? n : kNever;
  first = n;
}

bool FailingMalloc::Stop() {
  first = kNever;
  return failed;
}

int64_t FailingMalloc::allocations() const { return count; }

}  // namespace waypoint

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

// glibc's own, under the names by which it lets itself be replaced.
extern "C" {
void* __libc_malloc(size_t bytes);
void* __libc_calloc(size_t number, size_t bytes);
void* __libc_realloc(void* memory, size_t bytes);
void* __libc_memalign(size_t alignment, size_t bytes);

void* malloc(size_t bytes) { return waypoint::Fails() ? nullptr : __libc_malloc(bytes); }
void* calloc(size_t number, size_t bytes) { return waypoint::Fails() ? nullptr : __libc_calloc(number, bytes); }
void* realloc(void* memory, size_t bytes) { return waypoint::Fails() ? nullptr : __libc_realloc(memory, bytes); }
void* memalign(size_t alignment, size_t bytes) {
  return waypoint::Fails() ? nullptr : __libc_memalign(alignment, bytes);
}
void* aligned_alloc(size_t alignment, size_t bytes) { return memalign(alignment, bytes); }
int posix_memalign(void** memory, size_t alignment, size_t bytes) {
  void* const made = memalign(alignment, bytes);
  if (made == nullptr) {
    return ENOMEM;
  }
  *memory = made;
  return 0;
}
}

#endif
