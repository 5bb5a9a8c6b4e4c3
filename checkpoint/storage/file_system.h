#ifndef CHECKPOINT_STORAGE_FILE_SYSTEM_H_
#define CHECKPOINT_STORAGE_FILE_SYSTEM_H_

// The one door to files and directories.  Everything that the library reads or writes goes through a FileSystem, so
// that a test can put memory or a fault-injecting one behind it (fault_file_system.h).
//
// FileSystem and ReadableFile are thread-safe.  WritableFile: Write may run concurrently on disjoint ranges; Sync and
// Close by one thread, after all writes.
//
// Errors: E_IO (the path, the call and the errno in the message), E_NO_SPACE, E_TRUNCATED for a read past the end,
// E_PATH for a path that is not what the options allow.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"

namespace waypoint {

enum class FileType { kFile, kDirectory, kSymlink, kOther };

struct FileInfo {
  FileType type = FileType::kOther;
  int64_t size_bytes = 0;
  // Another one for another file, also of the same name; it survives renaming.
  std::string identity;
  // When its contents changed last, by the clock of the file system; to tell a change, not the time.
  int64_t modified_nanoseconds = 0;
};

struct DirectoryEntry {
  std::string name;  // no slash
  FileType type = FileType::kOther;
};

class ReadableFile {
 public:
  virtual ~ReadableFile() = default;
  virtual const std::string& path() const = 0;
  // At the time of opening.
  virtual int64_t size_bytes() const = 0;
  // Fills `out` from `offset`.  All or E_TRUNCATED / E_IO.  Fast (no page cache, no copy) when offset, length and
  // address are multiples of kDirectAlignment (the length may instead end at the end of the file) and the file was
  // opened with direct = true.
  virtual absl::Status Read(int64_t offset, absl::Span<char> out) const = 0;
  // These bytes will be read soon, in small pieces: fetching may begin.  A hint.
  virtual void WillRead(int64_t offset, int64_t bytes) const {}
};

class WritableFile {
 public:
  virtual ~WritableFile() = default;
  virtual const std::string& path() const = 0;
  // Writes all of `data` at `offset`; ranges may come in any order and leave no hole by the time of Close.  Fast under
  // the same alignment rule as ReadableFile::Read; the last, unaligned piece of a file is handled inside.
  virtual absl::Status Write(int64_t offset, absl::Span<const char> data) = 0;
  // Data and size are durable when this returns OK.  After a failure the file must be given up: fsync is never retried.
  virtual absl::Status Sync() = 0;
  virtual absl::Status Close() = 0;
};

// Released by the destructor and by the death of the process.
class FileLock {
 public:
  virtual ~FileLock() = default;
};

struct OpenOptions {
  // Bypass the page cache where the file system can; falls back to cached reads by itself.
  bool direct = false;
  // Refuse a symbolic link as the last component (E_PATH).  Directories on the way may be links.
  bool no_follow = false;
};

struct CreateOptions {
  // Bypass the page cache where the file system can.
  bool direct = false;
  // Final size where known: lets the file system lay the file out in one piece, and fail early when it is full.
  int64_t size_bytes = 0;
  // Others write other ranges of the file (OpenForWrite), none of them a page of this writer's: it has size_bytes from
  // the beginning, whoever wrote what so far.
  bool shared = false;
};

class FileSystem {
 public:
  virtual ~FileSystem() = default;

  // Refuses whatever is no regular file (E_IO), without blocking on a FIFO.
  virtual absl::StatusOr<std::unique_ptr<ReadableFile>> OpenForRead(const std::string& path,
                                                                    const OpenOptions& options) = 0;
  // Fails with E_EXISTS when the path exists.
  virtual absl::StatusOr<std::unique_ptr<WritableFile>> Create(const std::string& path,
                                                               const CreateOptions& options) = 0;
  // A file that another writer created with the same options, which say `shared`.  E_SIZE_MISMATCH when it has another
  // size.  Each writer syncs what it wrote itself.
  virtual absl::StatusOr<std::unique_ptr<WritableFile>> OpenForWrite(const std::string& path,
                                                                     const CreateOptions& options) = 0;
  // Follows links.  E_IO with absl::StatusCode::kNotFound when there is nothing; use Exists for a question.
  virtual absl::StatusOr<FileInfo> Stat(const std::string& path) = 0;
  // The path with all links resolved.
  virtual absl::StatusOr<std::string> RealPath(const std::string& path) = 0;
  // Names in bytewise order, without "." and "..".  Links are reported as kSymlink.
  virtual absl::StatusOr<std::vector<DirectoryEntry>> List(const std::string& path) = 0;
  // E_EXISTS when the path exists.  Parents must exist.
  virtual absl::Status MakeDirectory(const std::string& path) = 0;
  // Replaces a file; fails with E_EXISTS on a non-empty directory.
  virtual absl::Status Rename(const std::string& from, const std::string& to) = 0;
  // Swaps two existing paths in one step (renameat2 RENAME_EXCHANGE); E_UNSUPPORTED where the file system cannot.
  virtual absl::Status Exchange(const std::string& a, const std::string& b) = 0;
  virtual absl::Status RemoveFile(const std::string& path) = 0;
  virtual absl::Status RemoveDirectory(const std::string& path) = 0;
  // Makes creations, renames and removals in that directory durable.
  virtual absl::Status SyncDirectory(const std::string& path) = 0;
  // Exclusive, not waiting: E_LOCKED with the holder's description (pid, host, since when) when somebody has it.
  // Creates the file if needed; the file stays.
  virtual absl::StatusOr<std::unique_ptr<FileLock>> Lock(const std::string& path) = 0;
  virtual absl::StatusOr<int64_t> FreeBytes(const std::string& path) = 0;
};

// The kernel's.  Lives for ever.
FileSystem& PosixFileSystem();

// --- Conveniences over the interface -----------------------------------------------------------------------------

// False when nothing is there, or only a link to nothing; other failures are errors.
absl::StatusOr<bool> Exists(FileSystem& fs, const std::string& path);
// mkdir -p; the new names are durable.
absl::Status MakeDirectories(FileSystem& fs, const std::string& path);
// rm -r; OK when nothing is there.  Never follows links.  E_REQUEST for "/", "." and "..".
absl::Status RemoveTree(FileSystem& fs, const std::string& path);
// A whole small file; E_LIMIT (naming `limit_name`) beyond max_bytes.
absl::StatusOr<std::string> ReadSmallFile(FileSystem& fs, const std::string& path, int64_t max_bytes,
                                          absl::string_view limit_name);
// Creates, writes, syncs and closes.
absl::Status WriteSmallFile(FileSystem& fs, const std::string& path, absl::string_view contents);

// "a" + "b/c" -> "a/b/c".
std::string JoinPath(absl::string_view directory, absl::string_view name);
// "a/b/" -> "b".
std::string BaseName(absl::string_view path);
// "a/b/" -> "a", "b" -> ".", "/b" -> "/".
std::string DirName(absl::string_view path);

}  // namespace waypoint

#endif  // CHECKPOINT_STORAGE_FILE_SYSTEM_H_
