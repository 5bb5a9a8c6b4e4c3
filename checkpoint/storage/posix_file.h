#ifndef CHECKPOINT_STORAGE_POSIX_FILE_H_
#define CHECKPOINT_STORAGE_POSIX_FILE_H_

// Files of PosixFileSystem(); use them through file_system.h.
//
// A file opened with direct = true has two descriptors: one with O_DIRECT for whole aligned pages and one through the
// page cache for the rest.  Where O_DIRECT is refused (tmpfs, some FUSE file systems) everything goes through the
// second one.

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "checkpoint/base/aligned_buffer.h"
#include "checkpoint/storage/file_system.h"

namespace waypoint {

// Owns a descriptor; -1 is none.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Descriptor();
  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  // The result of close(2): 0 or an errno.  A descriptor is never closed twice, whatever close said.
  int Close();

 private:
  int fd_ = -1;
};

// open(2), repeated on EINTR.  -1 with errno on failure.
Descriptor OpenDescriptor(const std::string& path, int flags);

absl::StatusOr<std::unique_ptr<ReadableFile>> OpenPosixFile(const std::string& path, const OpenOptions& options);
absl::StatusOr<std::unique_ptr<WritableFile>> CreatePosixFile(const std::string& path, const CreateOptions& options);
absl::StatusOr<std::unique_ptr<WritableFile>> OpenPosixFileForWrite(const std::string& path,
                                                                    const CreateOptions& options);

}  // namespace waypoint

#endif  // CHECKPOINT_STORAGE_POSIX_FILE_H_
