#ifndef CHECKPOINT_STORAGE_STAGED_DIRECTORY_H_
#define CHECKPOINT_STORAGE_STAGED_DIRECTORY_H_

// A directory that appears whole or not at all.
//
//   WAYPOINT_ASSIGN_OR_RETURN(auto staged, StagedDirectory::Create(fs, "out/model", {.overwrite = false}));
//   ... create and sync files below staged->path() ...
//   WAYPOINT_RETURN_IF_ERROR(staged->Publish());
//
// Files go to ".<name>.tmp-<n>" beside the target.  Publish syncs the staging directory and those below it, renames it
// to the target and syncs the parent: before the rename the old state is visible, after it the new one.  An existing
// target is replaced by exchanging the two directories in one step, then the old one is removed.  The destructor
// removes what was not published.
//
// A writer holds a lock on ".<name>.tmp-lock" beside the target.  What a killed process left behind (that file and
// stages) is removed by the next writer of the same target, which must hold the lock to do so.  One thread.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "checkpoint/storage/file_system.h"

namespace waypoint {

struct StageOptions {
  // Replace an existing target.  Without it, Create fails with E_EXISTS.
  bool overwrite = false;
};

class StagedDirectory {
 public:
  // Makes missing parents.  A target that is a link to a directory means that directory.  Errors: E_EXISTS (also, with
  // overwrite, for a target that is no directory), E_IO, E_LOCKED when another live writer stages the same target,
  // E_UNSUPPORTED when the target exists and the file system cannot exchange directories, E_REQUEST for "/" and "..".
  static absl::StatusOr<std::unique_ptr<StagedDirectory>> Create(FileSystem& fs, const std::string& target,
                                                                 const StageOptions& options);
  ~StagedDirectory();
  StagedDirectory(const StagedDirectory&) = delete;
  StagedDirectory& operator=(const StagedDirectory&) = delete;

  // Where to write.
  const std::string& path() const { return path_; }
  const std::string& target() const { return target_; }

  // Makes what was written durable; nothing is written afterwards.
  absl::Status Sync();

  // Does Sync if nobody did.  Durable and visible when OK.  After a failure the target is as it was.  At most once.
  //
  // When only the last step fails, the sync of the parent, the disk may hold either state: the renaming is undone for
  // those who look now, and both directories are left whole for the next writer to clean up.
  absl::Status Publish();

 private:
  StagedDirectory(FileSystem& fs, std::string target, std::string path, StageOptions options)
      : fs_(fs), target_(std::move(target)), path_(std::move(path)), options_(options) {}

  absl::Status Prepare();
  absl::Status MakeStage();
  absl::Status CheckExchange();
  // Undoes a renaming that may or may not be on the disk; returns `cause` with what became of it.
  absl::Status TakeBack(bool exchanged, const absl::Status& cause);

  FileSystem& fs_;
  std::string target_;
  std::string path_;
  StageOptions options_;
  std::unique_ptr<FileLock> lock_;
  bool synced_ = false;
  bool published_ = false;
  // The stage must not be removed: it may be the target as far as the disk knows.
  bool keep_stage_ = false;
};

// The name of the target that a directory entry was made for by a writer: "a" for ".a.tmp-3" and ".a.tmp-lock"; empty
// for all others.
std::string StagedTargetName(absl::string_view entry_name);

// Removes, durably, what killed writers of `target` left: stages and the lock file.  E_LOCKED, and nothing is removed,
// while a live one stages it.
absl::Status RemoveStaleStages(FileSystem& fs, const std::string& target);

}  // namespace waypoint

#endif  // CHECKPOINT_STORAGE_STAGED_DIRECTORY_H_
