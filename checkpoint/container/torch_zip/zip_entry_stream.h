#ifndef CHECKPOINT_CONTAINER_TORCH_ZIP_ZIP_ENTRY_STREAM_H_
#define CHECKPOINT_CONTAINER_TORCH_ZIP_ZIP_ENTRY_STREAM_H_

// The bytes of one zip entry from first to last, decompressed on the way, in bounded memory.
//
//   ZipEntryStream stream(file, entry);
//   WAYPOINT_RETURN_IF_ERROR(stream.Skip(1000));
//   WAYPOINT_RETURN_IF_ERROR(stream.Read(absl::MakeSpan(buffer)));
//
// One thread.

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "checkpoint/container/torch_zip/zip_directory.h"
#include "checkpoint/storage/file_system.h"

namespace waypoint {

class ZipEntryStream {
 public:
  // `file` and what `entry.name` points to outlive the stream.
  ZipEntryStream(const ReadableFile& file, const ZipEntry& entry);
  ~ZipEntryStream();
  ZipEntryStream(const ZipEntryStream&) = delete;
  ZipEntryStream& operator=(const ZipEntryStream&) = delete;

  // Bytes of the entry that were passed.
  int64_t position() const { return position_; }

  // Fills `out`.  With the last byte of the entry comes the comparison of its CRC, where it has one, and that
  // compressed data ends there too.  Errors: E_CHECKSUM, E_ZIP (broken compressed data), E_REQUEST past the end, E_IO.
  absl::Status Read(absl::Span<char> out);
  absl::Status Skip(int64_t bytes);

 private:
  struct Inflater;

  absl::Status Error(absl::string_view problem) const;
  absl::Status Inflate(absl::Span<char> out);
  absl::Status CheckEnd();

  const ReadableFile& file_;
  const ZipEntry entry_;
  int64_t position_ = 0;
  int64_t stored_position_ = 0;  // bytes read from the file
  uint32_t crc32_ = 0;
  std::unique_ptr<Inflater> inflater_;  // deflated entries only
};

// A whole small entry, its CRC checked.  E_LIMIT, naming `limit_name`, beyond max_bytes.
absl::StatusOr<std::string> ReadZipEntry(const ReadableFile& file, const ZipEntry& entry, int64_t max_bytes,
                                         absl::string_view limit_name);

}  // namespace waypoint

#endif  // CHECKPOINT_CONTAINER_TORCH_ZIP_ZIP_ENTRY_STREAM_H_
