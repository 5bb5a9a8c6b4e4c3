#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "checkpoint/base/error.h"
#include "checkpoint/storage/file_errors.h"
#include "checkpoint/storage/file_system.h"
#include "checkpoint/storage/posix_file.h"

namespace waypoint {
namespace {

// Nobody removes and recreates a lock file this often in the time of one open.
constexpr int kLockAttempts = 100;

absl::Status PathError(int error_number, absl::string_view call, const std::string& path) {
  // A path through a file names nothing, as one through a missing directory.
  if (error_number == ENOENT || error_number == ENOTDIR) {
    return FileNotFoundError(path);
  }
  return ErrnoError(error_number, absl::StrCat(call, " of \"", path, "\""));
}

absl::Status RenameError(int error_number, absl::string_view call, const std::string& from, const std::string& to) {
  if (error_number == ENOTEMPTY || error_number == EEXIST) {
    return FileExistsError(to);
  }
  if (error_number == ENOENT) {
    return FileNotFoundError(from);
  }
  return ErrnoError(error_number, absl::StrCat(call, " of \"", from, "\" and \"", to, "\""));
}

FileType TypeOfMode(mode_t mode) {
  if (S_ISREG(mode)) {
    return FileType::kFile;
  }
  if (S_ISDIR(mode)) {
    return FileType::kDirectory;
  }
  return S_ISLNK(mode) ? FileType::kSymlink : FileType::kOther;
}

class PosixFileLock : public FileLock {
 public:
  explicit PosixFileLock(Descriptor descriptor) : descriptor_(std::move(descriptor)) {}

 private:
  // Closing the last descriptor of the open file releases the lock.
  const Descriptor descriptor_;
};

class Posix : public FileSystem {
 public:
  absl::StatusOr<std::unique_ptr<ReadableFile>> OpenForRead(const std::string& path,
                                                            const OpenOptions& options) override {
    return OpenPosixFile(path, options);
  }

  absl::StatusOr<std::unique_ptr<WritableFile>> Create(const std::string& path, const CreateOptions& options) override {
    return CreatePosixFile(path, options);
  }

  absl::StatusOr<std::unique_ptr<WritableFile>> OpenForWrite(const std::string& path,
                                                             const CreateOptions& options) override {
    return OpenPosixFileForWrite(path, options);
  }

  absl::StatusOr<FileInfo> Stat(const std::string& path) override {
    struct stat info;
    if (stat(path.c_str(), &info) != 0) {
      return PathError(errno, "stat", path);
    }
    return FileInfo{TypeOfMode(info.st_mode), info.st_size, absl::StrCat(info.st_dev, ":", info.st_ino),
                    info.st_mtim.tv_sec * int64_t{1'000'000'000} + info.st_mtim.tv_nsec};
  }

  absl::StatusOr<std::string> RealPath(const std::string& path) override {
    char* resolved = realpath(path.c_str(), nullptr);
    if (resolved == nullptr) {
      return PathError(errno, "resolution", path);
    }
    std::string result(resolved);
    std::free(resolved);
    return result;
  }

  absl::StatusOr<std::vector<DirectoryEntry>> List(const std::string& path) override {
    const std::unique_ptr<DIR, int (*)(DIR*)> directory(opendir(path.c_str()), closedir);
    if (directory == nullptr) {
      return PathError(errno, "listing", path);
    }
    std::vector<DirectoryEntry> entries;
    for (;;) {
      errno = 0;
      const dirent* entry = readdir(directory.get());
      if (entry == nullptr) {
        break;
      }
      const absl::string_view name = entry->d_name;
      if (name == "." || name == "..") {
        continue;
      }
      // d_type is optional for file systems.
      struct stat info;
      if (fstatat(dirfd(directory.get()), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0) {
        if (errno == ENOENT) {
          continue;  // removed since
        }
        return PathError(errno, "stat", JoinPath(path, name));
      }
      entries.push_back({std::string(name), TypeOfMode(info.st_mode)});
    }
    if (errno != 0) {
      return PathError(errno, "listing", path);
    }
    std::sort(entries.begin(), entries.end(),
              [](const DirectoryEntry& a, const DirectoryEntry& b) { return a.name < b.name; });
    return entries;
  }

  absl::Status MakeDirectory(const std::string& path) override {
    if (mkdir(path.c_str(), 0777) == 0) {
      return absl::OkStatus();
    }
    return errno == EEXIST ? FileExistsError(path) : PathError(errno, "making directory", path);
  }

  absl::Status Rename(const std::string& from, const std::string& to) override {
    return rename(from.c_str(), to.c_str()) == 0 ? absl::OkStatus() : RenameError(errno, "rename", from, to);
  }

  absl::Status Exchange(const std::string& a, const std::string& b) override {
    if (syscall(SYS_renameat2, AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE) == 0) {
      return absl::OkStatus();
    }
    if (errno == EINVAL || errno == ENOSYS || errno == EOPNOTSUPP) {
      return MakeError(ErrorKind::kUnsupported,
                       absl::StrCat("the file system cannot exchange \"", a, "\" and \"", b, "\" in one step"));
    }
    return RenameError(errno, "exchange", a, b);
  }

  absl::Status RemoveFile(const std::string& path) override {
    return unlink(path.c_str()) == 0 ? absl::OkStatus() : PathError(errno, "removal", path);
  }

  absl::Status RemoveDirectory(const std::string& path) override {
    return rmdir(path.c_str()) == 0 ? absl::OkStatus() : PathError(errno, "removal", path);
  }

  absl::Status SyncDirectory(const std::string& path) override {
    const Descriptor directory = OpenDescriptor(path, O_RDONLY | O_DIRECTORY);
    if (!directory.valid()) {
      return PathError(errno, "open", path);
    }
    // EINVAL: the file system (some network ones) has no such call because entries are durable at once.
    return fsync(directory.get()) == 0 || errno == EINVAL ? absl::OkStatus() : PathError(errno, "fsync", path);
  }

  absl::StatusOr<std::unique_ptr<FileLock>> Lock(const std::string& path) override {
    for (int attempt = 0; attempt < kLockAttempts; ++attempt) {
      Descriptor descriptor = OpenDescriptor(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK);
      if (!descriptor.valid()) {
        return PathError(errno, "open", path);
      }
      // Owned by the open file, not by the process: closing another descriptor of the same file does not drop it.
      struct flock request = {};
      request.l_type = F_WRLCK;
      request.l_whence = SEEK_SET;
      if (fcntl(descriptor.get(), F_OFD_SETLK, &request) != 0) {
        if (errno != EAGAIN && errno != EACCES) {
          return PathError(errno, "lock", path);
        }
        char holder[256];
        const ssize_t n = pread(descriptor.get(), holder, sizeof(holder), 0);
        return FileLockedError(path, absl::StripSuffix(absl::string_view(holder, std::max<ssize_t>(n, 0)), "\n"));
      }
      // The previous holder may have removed the file between our open and our lock: a lock on a file without a name
      // excludes nobody.
      struct stat locked;
      struct stat named;
      if (fstat(descriptor.get(), &locked) != 0) {
        return PathError(errno, "stat", path);
      }
      if (stat(path.c_str(), &named) != 0 || named.st_dev != locked.st_dev || named.st_ino != locked.st_ino) {
        continue;
      }
      // The text is for people; without it (disk full) the lock holds all the same.
      const std::string description = absl::StrCat(FileLockDescription(), "\n");
      if (ftruncate(descriptor.get(), 0) == 0) {
        const ssize_t written = pwrite(descriptor.get(), description.data(), description.size(), 0);
        static_cast<void>(written);
      }
      return std::unique_ptr<FileLock>(std::make_unique<PosixFileLock>(std::move(descriptor)));
    }
    return FileLockedError(path, "processes that keep replacing it");
  }

  absl::StatusOr<int64_t> FreeBytes(const std::string& path) override {
    struct statvfs info;
    if (statvfs(path.c_str(), &info) != 0) {
      return PathError(errno, "statvfs", path);
    }
    return static_cast<int64_t>(info.f_bavail) * static_cast<int64_t>(info.f_frsize);
  }
};

}  // namespace

FileSystem& PosixFileSystem() {
  static Posix* const posix = new Posix;
  return *posix;
}

}  // namespace waypoint
