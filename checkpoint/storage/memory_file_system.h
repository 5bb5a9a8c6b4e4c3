#ifndef CHECKPOINT_STORAGE_MEMORY_FILE_SYSTEM_H_
#define CHECKPOINT_STORAGE_MEMORY_FILE_SYSTEM_H_

// A FileSystem in memory that knows what a power loss would take.
//
//   MemoryFileSystem fs;
//   ... save ...
//   for (DiskState state : kAllDiskStates) {
//     for (int i = 0; i < fs.CrashCount(state); ++i) {
//       std::unique_ptr<MemoryFileSystem> after = fs.Crash(state, i);   // what the next process finds
//     }
//   }
//
// Two states are kept: what the running process sees, and what is surely on the disk.  Between them lies the ordered
// list of operations that are not durable yet.  Sync makes the writes of one file durable, SyncDirectory the creations,
// renames and removals in one directory.  Nothing else does, which is harsher than most disks and all that POSIX
// promises.  A rename or exchange is one operation: it is durable whole or not at all.
//
// Relative paths start at "/".  There are no links.  A fresh file system holds an empty "/".  Thread-safe.

#include <memory>
#include <string>
#include <vector>

#include "checkpoint/storage/file_system.h"

namespace waypoint {

// What a disk may hold after a power loss.
enum class DiskState {
  kEverything,      // all operations reached it
  kOnlySynced,      // no operation since the last sync did
  kZeroedData,      // all did, but unsynced bytes read as zero
  kOneFileDropped,  // all did, except the writes to unsynced file number `index`
  kTornWrite,       // all did, the last write up to 512 bytes, 4,096 bytes or its half (index 0, 1, 2)
  kNamesOnly,       // creations, renames and removals did, writes did not
  kDataOnly,        // writes did, creations, renames and removals did not
  kReordered,       // the first `index` did and, if it is of another file, number index + 1 overtook number index
};
inline constexpr DiskState kAllDiskStates[] = {
    DiskState::kEverything, DiskState::kOnlySynced, DiskState::kZeroedData, DiskState::kOneFileDropped,
    DiskState::kTornWrite,  DiskState::kNamesOnly,  DiskState::kDataOnly,   DiskState::kReordered};

class MemoryFileSystem : public FileSystem {
 public:
  MemoryFileSystem();
  ~MemoryFileSystem() override;

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

  // How many variants of the state there are now; at least 1.
  int CrashCount(DiskState state) const;
  // The file system that a process finds after a power loss now.  All of it is durable and no lock is held.  This one
  // is unchanged.
  std::unique_ptr<MemoryFileSystem> Crash(DiskState state, int index = 0) const;

 private:
  struct Node;
  struct Operation;
  struct Place;
  struct Journal;
  class Reader;
  class Writer;
  class NodeLock;

  // Owned together with the files that were opened, which may outlive the file system.
  std::shared_ptr<Journal> journal_;
};

}  // namespace waypoint

#endif  // CHECKPOINT_STORAGE_MEMORY_FILE_SYSTEM_H_
