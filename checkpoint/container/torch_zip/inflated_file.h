#ifndef CHECKPOINT_CONTAINER_TORCH_ZIP_INFLATED_FILE_H_
#define CHECKPOINT_CONTAINER_TORCH_ZIP_INFLATED_FILE_H_

// A compressed zip entry as a file of its own.
//
// Reads that go forward decompress each byte once.  Threads that pull blocks come a little out of order: a few places
// are kept where decompression can go on, and a read goes on from the nearest one before it, or starts again when there
// is none.  Memory is bounded whatever the size.  The CRC is checked by a pass that reaches the end.  Thread-safe.

#include <list>
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
    auto nearest = streams_.end();
    for (auto it = streams_.begin(); it != streams_.end(); ++it) {
      if ((*it)->position() <= offset && (nearest == streams_.end() || (*it)->position() > (*nearest)->position())) {
        nearest = it;
      }
    }
    std::unique_ptr<ZipEntryStream> stream;
    if (nearest != streams_.end()) {
      stream = std::move(*nearest);
      streams_.erase(nearest);
    } else {
      stream = std::make_unique<ZipEntryStream>(*archive_, entry_);
    }
    WAYPOINT_RETURN_IF_ERROR(stream->Skip(offset - stream->position()));
    WAYPOINT_RETURN_IF_ERROR(stream->Read(out));
    if (streams_.size() == kStreams) {
      streams_.pop_back();
    }
    streams_.push_front(std::move(stream));
    return absl::OkStatus();
  }

 private:
  // About 100 KiB each.
  static constexpr size_t kStreams = 4;

  const std::unique_ptr<ReadableFile> archive_;
  const std::string name_;
  ZipEntry entry_;
  mutable std::mutex mutex_;
  // The last used one first.
  mutable std::list<std::unique_ptr<ZipEntryStream>> streams_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace waypoint

#endif  // CHECKPOINT_CONTAINER_TORCH_ZIP_INFLATED_FILE_H_
