#ifndef CHECKPOINT_CONTAINER_CHUNK_RECORDER_H_
#define CHECKPOINT_CONTAINER_CHUNK_RECORDER_H_

// The digest of a file whose chunks are seen in any order, by many threads, while somebody reads it for other ends.
//
//   WAYPOINT_ASSIGN_OR_RETURN(const auto recorder, ChunkRecorder::Create(file->size_bytes()));
//   WAYPOINT_RETURN_IF_ERROR(recorder->See(begin, data));   // as the bytes come by
//   WAYPOINT_RETURN_IF_ERROR(recorder->Complete(*file));    // reads what nobody asked for
//   recorder->Digest();                                     // "xxh3-256k:0123456789abcdef"
//
// The digest is XXH3-64 over the XXH3-64 of each chunk of 256 KiB, 8 bytes little-endian each: unlike a digest of the
// bytes one after the other it needs no order, so that a conversion takes it along at the speed of memory.
// Thread-safe.

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "checkpoint/container/chunk_digests.h"
#include "checkpoint/storage/file_system.h"

namespace waypoint {

// Of all chunks of a file, in order; they have kDigestChunkBytes.
std::string FileDigest(const std::vector<uint64_t>& chunk_digests);
// Of a file that is in memory.
std::string FileDigest(absl::string_view contents);

class ChunkRecorder {
 public:
  // Takes 8 bytes of memory per chunk.  Errors: E_NO_MEMORY.
  static absl::StatusOr<std::shared_ptr<ChunkRecorder>> Create(int64_t file_bytes);

  int64_t file_bytes() const { return file_bytes_; }

  // Whole chunks: `begin` is a multiple of kDigestChunkBytes, `data` ends at one or at the end of the file.
  // E_CHECKSUM when a chunk was seen before and was another.
  absl::Status See(int64_t begin, absl::Span<const char> data);
  // Reads the chunks that were not seen.  Errors: the file's.
  absl::Status Complete(const ReadableFile& file);

  // Of each chunk, 0 for one that was not seen, 8 bytes little-endian each; and what another process saw of the file.
  std::string Seen() const;
  absl::Status Merge(absl::string_view seen);

  // After Complete.
  std::string Digest() const;

 private:
  ChunkRecorder(int64_t file_bytes, std::unique_ptr<std::atomic<uint64_t>[]> digests);

  absl::Status Note(int64_t chunk, uint64_t digest);

  const int64_t file_bytes_;
  const int64_t chunks_;
  const std::unique_ptr<std::atomic<uint64_t>[]> digests_;  // 0: not seen, or, once in 2^64, to be read again
};

}  // namespace waypoint

#endif  // CHECKPOINT_CONTAINER_CHUNK_RECORDER_H_
