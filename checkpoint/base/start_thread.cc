#include "checkpoint/base/start_thread.h"

#include <pthread.h>
#include <sys/mman.h>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/catch_allocation.h"
#include "checkpoint/base/error.h"

namespace waypoint {
namespace {

constexpr char kRemedy[] = "lower the number of threads, or allow the process more memory (ulimit -v)";

size_t StackBytes() {
  pthread_attr_t attributes;
  size_t bytes = 0;
  if (pthread_attr_init(&attributes) == 0) {
    pthread_attr_getstacksize(&attributes, &bytes);
    pthread_attr_destroy(&attributes);
  }
  return bytes;
}

bool IsMemoryFor(size_t bytes) {
  void* const memory =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
  return memory != MAP_FAILED && munmap(memory, bytes) == 0;
}

}  // namespace

absl::Status NoThreadError(const std::system_error& e) {
  const size_t stack_bytes = StackBytes();
  if (stack_bytes > 0 && !IsMemoryFor(stack_bytes)) {
    return OutOfMemoryError(AllocationError(stack_bytes, "its stack"), "another thread", kRemedy);
  }
  return CatchAllocation("another thread", kRemedy, [&e] {
    return MakeError(ErrorKind::kLimit, absl::StrCat("this process may have no further thread: ", e.what()));
  });
}

absl::Status NoThreadError(const std::bad_alloc& e) { return OutOfMemoryError(e, "another thread", kRemedy); }

}  // namespace waypoint
