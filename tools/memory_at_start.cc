#include "tools/memory_at_start.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>

#include "tools/exit_codes.h"

namespace waypoint {
namespace {

// The main thread's stack, which counts against the limit only as it grows.
constexpr size_t kStackBytes = size_t{512} << 10;
constexpr size_t kPageBytes = 4096;
// That nothing so small can be had tells an exception that could not even be made from other reasons to terminate.
constexpr size_t kSmallBytes = size_t{64} << 10;

// No memory is needed to say so.
[[noreturn]] void EndWithoutMemory(const char* message) {
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, message, std::strlen(message));
  _exit(kExitIo);
}

[[noreturn]] void Terminate() {
  const std::exception_ptr thrown = std::current_exception();
  bool no_memory = false;
  if (thrown != nullptr) {
    try {
      std::rethrow_exception(thrown);
    } catch (const std::bad_alloc&) {
      no_memory = true;
    } catch (...) {
      // The usual end tells what it was.
    }
  } else {
    void* const memory = std::malloc(kSmallBytes);
    no_memory = memory == nullptr;
    std::free(memory);
  }
  if (no_memory) {
    EndWithoutMemory(
        "error: E_NO_MEMORY: no memory, in a library or a thread of one, which could not go on; lower --max-memory, "
        "the "
        "number of threads or data.batch_size, or allow the process more (ulimit -v)\n");
  }
  std::abort();
}

bool IsMemoryFor(size_t bytes) {
  void* const memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return memory != MAP_FAILED && munmap(memory, bytes) == 0;
}

[[gnu::noinline]] void GrowStack() {
  rlimit limit = {};
  size_t bytes = kStackBytes;
  if (getrlimit(RLIMIT_STACK, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
    bytes = std::min<size_t>(bytes, limit.rlim_cur / 4);
  }
  volatile char* const stack = static_cast<volatile char*>(__builtin_alloca(bytes));
  for (size_t end = bytes; end > kPageBytes; end -= kPageBytes) {
    stack[end - 1] = 0;
  }
}

void PrepareMemory() {
  std::set_terminate(Terminate);
  if (!IsMemoryFor(kBytesToStart + kStackBytes)) {
    EndWithoutMemory(
        "error: E_NO_MEMORY: the process may not have the memory that it needs to start; raise its limit (ulimit -v, "
        "ulimit -d)\n");
  }
  GrowStack();
}

// Runs before the constructors of shared libraries, unlike any constructor of ours.
[[gnu::section(".preinit_array"), gnu::used]] void (*const prepare_memory)() = PrepareMemory;

}  // namespace
}  // namespace waypoint
