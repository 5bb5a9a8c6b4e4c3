#ifndef CHECKPOINT_CONTAINER_TORCH_ZIP_INFLATED_FILE_H_
#define CHECKPOINT_CONTAINER_TORCH_ZIP_INFLATED_FILE_H_

// A compressed zip entry as a file of its own.
//
// Reads that go forward decompress each byte once; one that goes back starts again.  Memory is bounded whatever the
// size. The CRC is checked by a pass that reaches the end.  Thread-safe.

#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/container/torch_zip/zip_entry_stream.h"
#include "checkpoint/storage/file_system.h"

namespace waypoint {

class InflatedFile : public ReadableFile {
 public:
  // `entry.name` is not used after the constructor.
  InflatedFile(std::unique_ptr<ReadableFile> archive, const ZipEntry& entry)
      : archive_(std::move(archive)), name_(entry.name), entry_(entry) {
    entry_.name = name_;
  }

  const std::string& path() const override { return archive_->path(); }
  int64_t size_bytes() const override { return entry_.bytes; }

  absl::Status Read(int64_t offset, absl::Span<char> out) const override {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (stream_ == nullptr || stream_->position() > offset) {
      stream_ = std::make_unique<ZipEntryStream>(*archive_, entry_);
    }
    absl::Status status = stream_->Skip(offset - stream_->position());
    if (status.ok()) {
      status = stream_->Read(out);
    }
    if (!status.ok()) {
      stream_.reset();
    }
    return status;
  }

 private:
  const std::unique_ptr<ReadableFile> archive_;
  const std::string name_;
  ZipEntry entry_;
  mutable std::mutex mutex_;
  mutable std::unique_ptr<ZipEntryStream> stream_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace waypoint

#endif  // CHECKPOINT_CONTAINER_TORCH_ZIP_INFLATED_FILE_H_
