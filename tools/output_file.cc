#include "tools/output_file.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/json.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/storage/file_system.h"
#include "tools/command_line.h"
#include "tools/write_all.h"

namespace waypoint {
namespace {

absl::Status WritePieces(int fd, absl::Span<const absl::string_view> pieces, const std::string& path) {
  for (const absl::string_view piece : pieces) {
    const int error_number = WriteAll(fd, piece, /*interruptible=*/true);
    if (error_number == EINTR) {
      return absl::CancelledError(absl::StrCat("interrupted while ", QuotedPath(path), " was written"));
    }
    if (error_number != 0) {
      return ErrnoError(error_number, absl::StrCat("write to ", QuotedPath(path)));
    }
  }
  return absl::OkStatus();
}

// 1 or 2, where that is what `info` describes and it can be written; -1.  A terminal, /dev/null and the like are the
// same by any descriptor.
int DescriptorOf(const struct stat& info) {
  for (const int fd : {STDOUT_FILENO, STDERR_FILENO}) {
    struct stat own = {};
    if (fstat(fd, &own) == 0 && own.st_dev == info.st_dev && own.st_ino == info.st_ino &&
        (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY) {
      return fd;
    }
  }
  return -1;
}

// Fails where `to` exists.
int RenameWithoutReplacing(const std::string& from, const std::string& to) {
  if (syscall(SYS_renameat2, AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) {
    return 0;
  }
  if (errno != EINVAL && errno != ENOSYS) {
    return errno;
  }
  // A file system without that call.
  return link(from.c_str(), to.c_str()) == 0 && unlink(from.c_str()) == 0 ? 0 : errno;
}

}  // namespace

absl::StatusOr<OutputFile> OutputFile::Check(absl::string_view flag, const std::string& path, bool overwrite) {
  OutputFile output(flag, path, overwrite);
  WAYPOINT_RETURN_IF_ERROR(output.Look());
  return output;
}

absl::Status OutputFile::Look() {
  const std::string shown = absl::StrCat(flag_, ": ", QuotedPath(path_));
  if (path_.empty()) {
    return MakeError(ErrorKind::kRequest, absl::StrCat(shown, " is no name of a file"));
  }
  struct stat named = {};
  struct stat info = {};
  if (lstat(path_.c_str(), &named) != 0) {
    if (errno != ENOENT) {
      return ErrnoError(errno, absl::StrCat(shown, ": stat"));
    }
    way_ = Way::kCreate;
  } else {
    const bool is_link = S_ISLNK(named.st_mode);
    if (stat(path_.c_str(), &info) != 0) {
      if (!is_link || (errno != ENOENT && errno != ELOOP)) {
        return ErrnoError(errno, absl::StrCat(shown, ": stat"));
      }
      return MakeError(ErrorKind::kRequest, absl::StrCat(shown, " is a link to nothing; name the file itself"));
    }
    if (S_ISDIR(info.st_mode)) {
      return MakeError(ErrorKind::kRequest, absl::StrCat(shown, " is a directory, wanted a file in it"));
    }
    descriptor_ = DescriptorOf(info);
    if (descriptor_ >= 0) {
      way_ = Way::kInto;
      return absl::OkStatus();
    }
    if (S_ISSOCK(info.st_mode)) {
      return MakeError(ErrorKind::kRequest, absl::StrCat(shown, " is a socket, wanted a file, a pipe or a device"));
    }
    if (!S_ISREG(info.st_mode)) {
      way_ = Way::kInto;
      return access(path_.c_str(), W_OK) == 0 ? absl::OkStatus() : ErrnoError(errno, absl::StrCat(shown, ": writing"));
    }
    if (is_link) {
      return MakeError(ErrorKind::kRequest,
                       absl::StrCat(shown, " is a link to a file, which would be replaced by a file of its own; name ",
                                    "the file that it leads to"));
    }
    if (!overwrite_) {
      return MakeError(ErrorKind::kExists, absl::StrCat(shown, " exists; --overwrite replaces it"));
    }
    way_ = Way::kReplace;
  }
  const std::string directory = DirName(path_);
  if (stat(directory.c_str(), &info) != 0 || access(directory.c_str(), W_OK | X_OK) != 0) {
    return ErrnoError(errno, absl::StrCat(shown, ": making a file in ", QuotedPath(directory)));
  }
  return S_ISDIR(info.st_mode) ? absl::OkStatus()
                               : ErrnoError(ENOTDIR, absl::StrCat(shown, ": making a file in ", QuotedPath(directory)));
}

absl::Status OutputFile::Write(absl::Span<const absl::string_view> pieces) const {
  WAYPOINT_ASSIGN_OR_RETURN(const OutputFile now, Check(flag_, path_, overwrite_));
  return now.way_ == Way::kInto ? now.WriteInto(pieces) : now.WriteBeside(pieces);
}

absl::Status OutputFile::WriteInto(absl::Span<const absl::string_view> pieces) const {
  int fd = -1;
  do {
    fd = descriptor_ >= 0 ? fcntl(descriptor_, F_DUPFD_CLOEXEC, 3)
                          : open(path_.c_str(), O_WRONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0 && errno == EINTR && Interrupted()) {
      return absl::CancelledError(absl::StrCat("interrupted while nobody read ", QuotedPath(path_)));
    }
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) {
    return ErrnoError(errno, absl::StrCat("open of ", QuotedPath(path_)));
  }
  absl::Status status = WritePieces(fd, pieces, path_);
  // EINVAL, EROFS: a pipe or a terminal, of which nothing can be synced.
  if (status.ok() && fsync(fd) != 0 && errno != EINVAL && errno != EROFS && errno != ENOTSUP) {
    status = ErrnoError(errno, absl::StrCat("fsync of ", QuotedPath(path_)));
  }
  if (close(fd) != 0 && status.ok()) {
    status = ErrnoError(errno, absl::StrCat("close of ", QuotedPath(path_)));
  }
  return status;
}

absl::Status OutputFile::WriteBeside(absl::Span<const absl::string_view> pieces) const {
  std::string staged;
  int fd = -1;
  // Whatever has such a name is not ours: an earlier process of this number may have been killed.
  for (int attempt = 0; fd < 0 && (attempt == 0 || (errno == EEXIST && attempt < 100)); ++attempt) {
    // A name of its own, which is short: beside one of the greatest length there is no longer one.
    staged = JoinPath(DirName(path_), absl::StrCat(".waypoint-output-", getpid(), "-", attempt));
    fd = open(staged.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
  }
  if (fd < 0) {
    return ErrnoError(errno, absl::StrCat("creation of ", QuotedPath(staged)));
  }
  absl::Status status = WritePieces(fd, pieces, staged);
  struct stat old = {};
  if (status.ok() && way_ == Way::kReplace && (stat(path_.c_str(), &old) != 0 || fchmod(fd, old.st_mode & 0777) != 0)) {
    status = ErrnoError(errno, absl::StrCat("giving ", QuotedPath(staged), " the permissions of ", QuotedPath(path_)));
  }
  // Before the rename: else the name could survive a power failure and the contents not.
  if (status.ok() && fsync(fd) != 0) {
    status = ErrnoError(errno, absl::StrCat("fsync of ", QuotedPath(staged)));
  }
  if (close(fd) != 0 && status.ok()) {
    status = ErrnoError(errno, absl::StrCat("close of ", QuotedPath(staged)));
  }
  if (status.ok() && way_ == Way::kReplace) {
    status = PosixFileSystem().Rename(staged, path_);
  } else if (status.ok()) {
    const int error_number = RenameWithoutReplacing(staged, path_);
    if (error_number == EEXIST) {
      status = MakeError(ErrorKind::kExists,
                         absl::StrCat(flag_, ": ", QuotedPath(path_), " was made by somebody else meanwhile"));
    } else if (error_number != 0) {
      status = ErrnoError(error_number, absl::StrCat("rename to ", QuotedPath(path_)));
    }
  }
  if (!status.ok()) {
    // What failed matters more than whether its leavings could be removed.
    unlink(staged.c_str());
    return status;
  }
  return PosixFileSystem().SyncDirectory(DirName(path_));
}

}  // namespace waypoint
