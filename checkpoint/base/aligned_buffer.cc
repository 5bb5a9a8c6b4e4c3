#include "checkpoint/base/aligned_buffer.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>

#include "checkpoint/base/catch_allocation.h"

namespace waypoint {

char* AllocatePages(size_t bytes) {
  const int64_t rounded = AlignUp(std::max<int64_t>(static_cast<int64_t>(bytes), 1), kDirectAlignment);
  const int64_t huge = AlignDown(rounded, kHugePageBytes);
  void* data = nullptr;
  // Not aligned_alloc, whose sizes are multiples of the alignment.
  if (posix_memalign(&data, huge > 0 ? kHugePageBytes : kDirectAlignment, rounded) != 0) {
    throw AllocationError(rounded, "a buffer");
  }
#ifdef MADV_HUGEPAGE
  if (huge > 0) {
    // Refused only by kernels without huge pages, where small ones serve.
    madvise(data, huge, MADV_HUGEPAGE);
  }
#endif
  return static_cast<char*>(data);
}

}  // namespace waypoint
