#ifndef CHECKPOINT_CONTAINER_CHUNK_DIGESTS_H_
#define CHECKPOINT_CONTAINER_CHUNK_DIGESTS_H_

// Digests of a file, chunk by chunk: made while the bytes pass on their way to disk, checked whenever a chunk is read.
// A reader of a few rows must read and hash the chunks around them, so chunks are small beside a block of I/O.

#include <cstdint>
#include <vector>

namespace waypoint {

inline constexpr int64_t kDigestChunkBytes = int64_t{256} << 10;

struct ChunkDigests {
  int64_t chunk_bytes = kDigestChunkBytes;
  // XXH3-64 of each chunk; the last chunk may be shorter.
  std::vector<uint64_t> digests;
};

}  // namespace waypoint

#endif  // CHECKPOINT_CONTAINER_CHUNK_DIGESTS_H_
