#ifndef CHECKPOINT_STORAGE_FAULT_FILE_SYSTEM_H_
#define CHECKPOINT_STORAGE_FAULT_FILE_SYSTEM_H_

// A FileSystem that fails on command, around any other; and a record of what was called.
//
//   MemoryFileSystem memory;
//   for (int64_t k = 0;; ++k) {
//     FaultFileSystem fs(memory, Fault::kKillAfter, k);
//     Save(fs);
//     if (!fs.fired()) break;                       // the workload has fewer calls
//     Check(*memory.Crash(DiskState::kOnlySynced));
//   }
//
// Mutating calls are counted from 0: Create (and OpenForWrite, as kCreate), Write, Sync, Close, MakeDirectory, Rename, Exchange, RemoveFile,
// RemoveDirectory, SyncDirectory, Lock.  A fault that makes no sense for call k (a failed fsync where a directory is
// made) does not fire.  EINTR is not among the faults: it never leaves the posix implementation.
//
// Thread-safe.  The wrapped file system must outlive this one and the files opened through it.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "checkpoint/storage/file_system.h"

namespace waypoint {

enum class Fault {
  kNone,
  kKillBefore,       // the call does nothing, and neither does any later one
  kKillAfter,        // the call works, no later one does anything
  kEio,              // any call: EIO, without effect
  kEnospc,           // a call that needs space: ENOSPC, without effect
  kFullDisk,         // the same from call k on
  kEdquot,           // EDQUOT, without effect
  kEmfile,           // a call that opens a file: EMFILE
  kShortWriteOne,    // a write stops after 1 byte with ENOSPC
  kShortWriteMost,   // a write stops before its last byte with ENOSPC
  kSyncEio,          // a sync fails with EIO; later ones of that file say OK and do nothing, as on Linux
  kCloseEio,         // the file is closed, EIO is returned
  kRenameExdev,      // rename or exchange: EXDEV, without effect
  kRenameEio,        // rename or exchange: EIO, without effect
  kUnlinkEbusy,      // removal of a file or directory: EBUSY, without effect
  kExchangeMissing,  // exchange: E_UNSUPPORTED, as on file systems without it; from call k on
};
inline constexpr Fault kAllFaults[] = {
    Fault::kKillBefore, Fault::kKillAfter,   Fault::kEio,           Fault::kEnospc,         Fault::kFullDisk,
    Fault::kEdquot,     Fault::kEmfile,      Fault::kShortWriteOne, Fault::kShortWriteMost, Fault::kSyncEio,
    Fault::kCloseEio,   Fault::kRenameExdev, Fault::kRenameEio,     Fault::kUnlinkEbusy,    Fault::kExchangeMissing};

// "kill-before", "EIO", ...
const char* FaultName(Fault fault);

struct FileCall {
  enum Kind {
    kCreate,
    kWrite,
    kSync,
    kClose,
    kMakeDirectory,
    kRename,
    kExchange,
    kRemoveFile,
    kRemoveDirectory,
    kSyncDirectory,
    kLock
  };
  Kind kind;
  std::string path;
  std::string to;  // kRename, kExchange
  bool ok = false;
  // kWrite
  int64_t offset = 0;
  int64_t bytes = 0;
};

// What every call of a killed process returns.
bool IsKilledError(const absl::Status& status);

class FaultFileSystem : public FileSystem {
 public:
  explicit FaultFileSystem(FileSystem& base, Fault fault = Fault::kNone, int64_t at_call = 0);
  ~FaultFileSystem() override;

  // Mutating calls so far.
  int64_t calls() const;
  // The fault was injected.
  bool fired() const;
  std::vector<FileCall> trace() const;

  absl::StatusOr<std::unique_ptr<ReadableFile>> OpenForRead(const std::string& path,
                                                            const OpenOptions& options) override;
  absl::StatusOr<std::unique_ptr<WritableFile>> Create(const std::string& path, const CreateOptions& options) override;
  absl::StatusOr<std::unique_ptr<WritableFile>> OpenForWrite(const std::string& path,
                                                             const CreateOptions& options) override;
  absl::StatusOr<FileInfo> Stat(const std::string& path) override;
  absl::StatusOr<std::string> RealPath(const std::string& path) override;
  absl::StatusOr<std::vector<DirectoryEntry>> List(const std::string& path) override;
  absl::Status MakeDirectory(const std::string& path) override;
  absl::Status Rename(const std::string& from, const std::string& to) override;
  absl::Status Exchange(const std::string& a, const std::string& b) override;
  absl::Status RemoveFile(const std::string& path) override;
  absl::Status RemoveDirectory(const std::string& path) override;
  absl::Status SyncDirectory(const std::string& path) override;
  absl::StatusOr<std::unique_ptr<FileLock>> Lock(const std::string& path) override;
  absl::StatusOr<int64_t> FreeBytes(const std::string& path) override;

 private:
  class Injector;
  class Reader;
  class Writer;

  FileSystem& base_;
  const std::shared_ptr<Injector> injector_;
};

}  // namespace waypoint

#endif  // CHECKPOINT_STORAGE_FAULT_FILE_SYSTEM_H_
