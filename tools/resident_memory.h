#ifndef TOOLS_RESIDENT_MEMORY_H_
#define TOOLS_RESIDENT_MEMORY_H_

// What the process holds in memory, as the kernel counts it (/proc/self/status), and how a bound on it is spent.
// Does not link libtorch.  Thread-safe.

#include <cstdint>

#include "absl/status/statusor.h"

namespace waypoint {

struct ResidentMemory {
  int64_t current_bytes = 0;  // VmRSS
  int64_t peak_bytes = 0;     // VmHWM
};

// Zeros where there is no /proc.
ResidentMemory ReadResidentMemory();

// Keeps freed blocks from staying with the allocator, where they would count against the bound of the next phase.
// Call once, before the first transfer.
void ReturnFreedBlocks();

// How --max-memory is spent.
struct MemorySplit {
  // TransferOptions::max_bytes_in_flight: blocks and the sources' scratch.
  int64_t bytes_in_flight = 0;
  // SaveOptions::block_bytes.
  int64_t block_bytes = 0;
  int threads = 0;
};

inline constexpr int64_t kMinMaxMemory = int64_t{64} << 20;
inline constexpr int64_t kDefaultMaxMemory = int64_t{256} << 20;

// `max_memory_bytes` is the growth of resident memory above what the program holds at its start, in all.
//
//   a quarter, 64 MiB at most   headers, manifests, plans, digests, stacks, and pages of code that are touched late
//   the rest                    in flight: each thread holds one block, and up to as much again as scratch (a read
//                               that starts or ends between pages, a cast's input of twice the size)
//
// Blocks are the largest power of two, 8 MiB at most (where O_DIRECT is at its best) and 256 KiB at least, of which
// three a thread fit.  Threads: 0 means 4; fewer where even the smallest blocks do not fit.
// Errors: E_REQUEST below kMinMaxMemory, for a negative number of threads and above 256 of them.
absl::StatusOr<MemorySplit> SplitMemory(int64_t max_memory_bytes, int threads);

}  // namespace waypoint

#endif  // TOOLS_RESIDENT_MEMORY_H_
