#ifndef CHECKPOINT_ASYNC_HOST_MEMORY_H_
#define CHECKPOINT_ASYNC_HOST_MEMORY_H_

// A range of zeroed memory in huge pages, where the kernel has them.  Move-only, one thread.

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoint/base/aligned_buffer.h"

namespace waypoint {

class HostMemory {
 public:
  HostMemory() = default;
  HostMemory(HostMemory&& other) noexcept;
  HostMemory& operator=(HostMemory&& other) noexcept;
  ~HostMemory();

  // Starts at a huge page and ends at one.  No page is there yet.  E_LIMIT when there is no such memory.
  static absl::StatusOr<HostMemory> Map(int64_t bytes);

  char* data() const { return data_; }
  int64_t size_bytes() const { return bytes_; }

  // Makes all pages be there, so that nobody waits for them later.  E_LIMIT when there is no such memory.
  absl::Status Populate(int threads);
  // Gives all pages back; contents are zero afterwards.
  void Discard();

 private:
  char* data_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace waypoint

#endif  // CHECKPOINT_ASYNC_HOST_MEMORY_H_
