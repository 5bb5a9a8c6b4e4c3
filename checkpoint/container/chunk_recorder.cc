#include "checkpoint/container/chunk_recorder.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/aligned_buffer.h"
#include "checkpoint/base/digest.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"

namespace waypoint {
namespace {

constexpr char kDigestPrefix[] = "xxh3-256k:";

int64_t ChunksOf(int64_t file_bytes) {
  return file_bytes / kDigestChunkBytes + (file_bytes % kDigestChunkBytes != 0 ? 1 : 0);
}

}  // namespace

std::string FileDigest(const std::vector<uint64_t>& chunk_digests) {
  return absl::StrCat(kDigestPrefix,
                      DigestHex(Xxh3(absl::MakeConstSpan(reinterpret_cast<const char*>(chunk_digests.data()),
                                                         chunk_digests.size() * sizeof(uint64_t)))));
}

std::string FileDigest(absl::string_view contents) {
  std::vector<uint64_t> digests;
  for (size_t begin = 0; begin < contents.size(); begin += kDigestChunkBytes) {
    digests.push_back(Xxh3(contents.substr(begin, kDigestChunkBytes)));
  }
  return FileDigest(digests);
}

ChunkRecorder::ChunkRecorder(int64_t file_bytes, std::unique_ptr<std::atomic<uint64_t>[]> digests)
    : file_bytes_(file_bytes), chunks_(ChunksOf(file_bytes)), digests_(std::move(digests)) {}

absl::StatusOr<std::shared_ptr<ChunkRecorder>> ChunkRecorder::Create(int64_t file_bytes) {
  const int64_t chunks = ChunksOf(file_bytes);
  std::unique_ptr<std::atomic<uint64_t>[]> digests(new (std::nothrow) std::atomic<uint64_t>[chunks]());
  if (digests == nullptr) {
    return NoMemoryError(chunks * sizeof(uint64_t), absl::StrCat("digests of a file of ", file_bytes, " bytes"),
                         "free memory");
  }
  return std::shared_ptr<ChunkRecorder>(new ChunkRecorder(file_bytes, std::move(digests)));
}

absl::Status ChunkRecorder::See(int64_t begin, absl::Span<const char> data) {
  for (int64_t offset = 0; offset < static_cast<int64_t>(data.size()); offset += kDigestChunkBytes) {
    WAYPOINT_RETURN_IF_ERROR(Note((begin + offset) / kDigestChunkBytes, Xxh3(data.subspan(offset, kDigestChunkBytes))));
  }
  return absl::OkStatus();
}

absl::Status ChunkRecorder::Complete(const ReadableFile& file) {
  AlignedBuffer buffer(kDigestChunkBytes);
  for (int64_t chunk = 0; chunk < chunks_; ++chunk) {
    if (digests_[chunk] != 0) {
      continue;
    }
    const int64_t begin = chunk * kDigestChunkBytes;
    const absl::Span<char> data = buffer.span().subspan(0, std::min(kDigestChunkBytes, file_bytes_ - begin));
    WAYPOINT_RETURN_IF_ERROR(file.Read(begin, data));
    WAYPOINT_RETURN_IF_ERROR(See(begin, data));
  }
  return absl::OkStatus();
}

std::string ChunkRecorder::Seen() const {
  std::string seen(chunks_ * sizeof(uint64_t), '\0');
  for (int64_t chunk = 0; chunk < chunks_; ++chunk) {
    const uint64_t digest = digests_[chunk];
    std::memcpy(&seen[chunk * sizeof(uint64_t)], &digest, sizeof(digest));
  }
  return seen;
}

absl::Status ChunkRecorder::Merge(absl::string_view seen) {
  if (static_cast<int64_t>(seen.size()) != chunks_ * static_cast<int64_t>(sizeof(uint64_t))) {
    return MakeError(ErrorKind::kSizeMismatch, absl::StrCat("another process saw ", seen.size() / sizeof(uint64_t),
                                                            " chunks of a file that has ", chunks_, " here"));
  }
  for (int64_t chunk = 0; chunk < chunks_; ++chunk) {
    uint64_t digest = 0;
    std::memcpy(&digest, &seen[chunk * sizeof(uint64_t)], sizeof(digest));
    WAYPOINT_RETURN_IF_ERROR(Note(chunk, digest));
  }
  return absl::OkStatus();
}

std::string ChunkRecorder::Digest() const {
  std::vector<uint64_t> digests(digests_.get(), digests_.get() + chunks_);
  return FileDigest(digests);
}

absl::Status ChunkRecorder::Note(int64_t chunk, uint64_t digest) {
  if (digest == 0) {
    return absl::OkStatus();
  }
  const uint64_t before = digests_[chunk].exchange(digest);
  if (before != 0 && before != digest) {
    return MakeError(ErrorKind::kChecksum, absl::StrCat("chunk ", chunk, " at ", chunk * kDigestChunkBytes,
                                                        " has digest ", DigestHex(digest), ", had ", DigestHex(before),
                                                        " a moment ago; the file was changed while it was read"));
  }
  return absl::OkStatus();
}

}  // namespace waypoint
