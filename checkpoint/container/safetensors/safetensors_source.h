#ifndef CHECKPOINT_CONTAINER_SAFETENSORS_SAFETENSORS_SOURCE_H_
#define CHECKPOINT_CONTAINER_SAFETENSORS_SAFETENSORS_SOURCE_H_

// The tensors of one or more safetensors files, read by box.
//
// The reads of a batch are sorted by file and offset, neighbours merged, and made in large aligned pieces past the page
// cache; the caller's elements are then copied out of them.  Where a file has digests, whole chunks are read and
// checked.  Thread-safe.

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "checkpoint/base/aligned_buffer.h"
#include "checkpoint/container/chunk_digests.h"
#include "checkpoint/container/safetensors/header.h"
#include "checkpoint/storage/file_system.h"
#include "checkpoint/tensor/tensor_source.h"

namespace waypoint {

struct SafetensorsFile {
  std::string path;
  SafetensorsHeader header;
  // Empty: nothing to check.
  ChunkDigests digests;
};

struct SafetensorsSourceOptions {
  // Largest single read.
  int64_t window_bytes = int64_t{8} << 20;
  // Bytes between two wanted runs that are read along rather than skipped.
  int64_t gap_bytes = int64_t{64} << 10;
};

class SafetensorsSource : public TensorSource {
 public:
  // E_DUP_KEY when two files hold a tensor of the same name.
  static absl::StatusOr<std::unique_ptr<SafetensorsSource>> Create(FileSystem& fs, std::vector<SafetensorsFile> files,
                                                                   const SafetensorsSourceOptions& options);

  // In the order of files and offsets.
  const Manifest& manifest() const override { return manifest_; }
  // Errors: E_IO, E_TRUNCATED, E_CHECKSUM; messages name the file and the offset.
  absl::Status Read(absl::Span<const ReadRequest> requests) override;
  int64_t ScratchBytes(int64_t block_bytes) const override;

  // Read from disk so far, including what was read along.
  int64_t bytes_read() const;

 private:
  struct Run;
  struct Place {
    int64_t file = 0;
    int64_t begin = 0;
  };

  SafetensorsSource(FileSystem& fs, std::vector<SafetensorsFile> files, const SafetensorsSourceOptions& options)
      : fs_(fs), files_(std::move(files)), options_(options), open_files_(files_.size()) {}

  absl::StatusOr<const ReadableFile*> OpenFile(int64_t file);
  absl::Status ReadWindow(absl::Span<const Run> runs, int64_t begin, int64_t end);
  absl::Status CheckDigests(int64_t file, int64_t begin, absl::Span<const char> data) const;

  FileSystem& fs_;
  std::vector<SafetensorsFile> files_;  // without the headers' entries; not changed after Create
  const SafetensorsSourceOptions options_;
  Manifest manifest_;
  std::vector<Place> places_;  // by tensor
  BufferPool scratch_;
  mutable std::mutex mutex_;
  std::vector<std::unique_ptr<ReadableFile>> open_files_ ABSL_GUARDED_BY(mutex_);
  int64_t bytes_read_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace waypoint

#endif  // CHECKPOINT_CONTAINER_SAFETENSORS_SAFETENSORS_SOURCE_H_
