#ifndef CHECKPOINT_COORDINATION_FILE_COORDINATOR_H_
#define CHECKPOINT_COORDINATION_FILE_COORDINATOR_H_

// Ranks that are processes on one host or many, and share a file system: messages are files in a directory beside the
// output.  Nothing is bound to a port and nothing is linked, which suits a program that runs for seconds.
//
//   WAYPOINT_ASSIGN_OR_RETURN(FileCoordinatorOptions options, FileCoordinatorOptionsFromEnvironment());
//   options.directory = "/data/.out.ranks";
//   WAYPOINT_ASSIGN_OR_RETURN(auto coordinator, FileCoordinator::Create(PosixFileSystem(), options));
//
// How ranks find each other although a crashed job may have left files: each rank announces itself under a random
// token; rank 0, which holds a lock on the directory, offers a new session that repeats the tokens it saw; a rank joins
// only a session that repeats its own.  Messages appear whole, by renaming.  Whether a call succeeded is decided once,
// for all ranks, by whoever first renames a directory into place.
//
// A rank that dies on the same machine is noticed at once by the lock that it held; elsewhere when the timeout ends.
// Rank 0 removes the directory when all have left, or after options.linger.

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "checkpoint/coordination/store_coordinator.h"
#include "checkpoint/coordination/wait_hooks.h"
#include "checkpoint/storage/file_system.h"

namespace waypoint {

struct FileCoordinatorOptions {
  int rank = 0;
  int world_size = 1;
  // Made when it is not there; its parent exists.  Jobs that run at the same time need different ones.
  std::string directory;
  absl::Duration join_timeout = absl::Minutes(5);
  absl::Duration linger = absl::Seconds(5);
  // For all waits: to join, and of calls.
  WaitHooks hooks;
};

// rank and world_size from RANK and WORLD_SIZE as launchers set them.  E_REQUEST names the variable that is missing or
// no such number.
absl::StatusOr<FileCoordinatorOptions> FileCoordinatorOptionsFromEnvironment();

// Removes directories of other jobs in the same place, "<parent of directory>/<prefix>...", that a crash left behind:
// those whose rank 0 holds no lock.  Failures leave them there.
void RemoveAbandonedJobs(FileSystem& fs, const std::string& directory, absl::string_view prefix);

class FileCoordinator : public StoreCoordinator {
 public:
  // Returns when all ranks are here.  E_RANK naming those that did not come, E_LOCKED when another rank 0 uses the
  // directory, E_REQUEST for a rank outside of the job, Cancelled when hooks.cancelled says so.
  static absl::StatusOr<std::unique_ptr<FileCoordinator>> Create(FileSystem& fs, const FileCoordinatorOptions& options);
  ~FileCoordinator() override;

 private:
  FileCoordinator(FileSystem& fs, const FileCoordinatorOptions& options, std::unique_ptr<MessageStore> store,
                  std::unique_ptr<FileLock> lock);

  FileSystem& fs_;
  const FileCoordinatorOptions options_;
  const std::unique_ptr<FileLock> lock_;  // rank 0's
};

}  // namespace waypoint

#endif  // CHECKPOINT_COORDINATION_FILE_COORDINATOR_H_
