#include "tools/resident_memory.h"

#include <malloc.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "tools/command_line.h"

namespace waypoint {

ResidentMemory ReadResidentMemory() {
  ResidentMemory memory;
  std::ifstream status("/proc/self/status");
  std::string line;
  while (std::getline(status, line)) {
    long long kibibytes = 0;
    if (std::sscanf(line.c_str(), "VmRSS: %lld kB", &kibibytes) == 1) {
      memory.current_bytes = kibibytes * 1024;
    } else if (std::sscanf(line.c_str(), "VmHWM: %lld kB", &kibibytes) == 1) {
      memory.peak_bytes = kibibytes * 1024;
    }
  }
  return memory;
}

void ReturnFreedBlocks() {
  // By default the threshold follows the largest freed block, so that the second block already comes from the heap.
  mallopt(M_MMAP_THRESHOLD, 128 * 1024);
  mallopt(M_ARENA_MAX, 2);
}

absl::StatusOr<MemorySplit> SplitMemory(int64_t max_memory_bytes, int threads) {
  if (max_memory_bytes < kMinMaxMemory) {
    return MakeError(ErrorKind::kRequest, absl::StrCat("--max-memory is ", HumanMemory(max_memory_bytes),
                                                       ", it must be ", HumanMemory(kMinMaxMemory), " or more"));
  }
  if (threads < 0 || threads > 256) {
    return MakeError(ErrorKind::kRequest, absl::StrCat("--threads is ", threads, ", it must be 0 (choose) to 256"));
  }
  constexpr int64_t kBlocksPerThread = 3;
  MemorySplit split;
  split.threads = threads == 0 ? 4 : threads;
  split.bytes_in_flight = max_memory_bytes - std::min(max_memory_bytes / 4, int64_t{64} << 20);
  split.block_bytes = int64_t{8} << 20;
  while (split.block_bytes > (int64_t{256} << 10) &&
         split.threads * kBlocksPerThread * split.block_bytes > split.bytes_in_flight) {
    split.block_bytes /= 2;
  }
  split.threads = static_cast<int>(
      std::min<int64_t>(split.threads, split.bytes_in_flight / (kBlocksPerThread * split.block_bytes)));
  return split;
}

}  // namespace waypoint
