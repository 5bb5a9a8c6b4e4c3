#ifndef CHECKPOINT_CONTAINER_TORCH_ZIP_CRC32_H_
#define CHECKPOINT_CONTAINER_TORCH_ZIP_CRC32_H_

// CRC-32 of zip entries (the polynomial of PKWARE APPNOTE 6.3.9, section 4.4.7).  Thread-safe.

#include <cstdint>

#include "absl/types/span.h"

namespace waypoint {

// Of the bytes, continued from `crc32` (0 at the start).
uint32_t ExtendCrc32(uint32_t crc32, absl::Span<const char> data);

// Of two pieces that follow each other, from their own: the order in which pieces are seen does not matter.
uint32_t CombineCrc32(uint32_t first, uint32_t second, int64_t second_bytes);

}  // namespace waypoint

#endif  // CHECKPOINT_CONTAINER_TORCH_ZIP_CRC32_H_
