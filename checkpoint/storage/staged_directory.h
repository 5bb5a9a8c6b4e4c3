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
// target is replaced by exchanging the two directories in one step, then the old one is removed, or moved aside where
// it may not be.  The destructor removes what was not published.
//
// A writer holds a lock on ".<name>.tmp-lock" beside the target.  What a killed process left behind (that file and
// stages) is removed by the next writer of the same target, which must hold the lock to do so.  One thread.

#include <functional>
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
  // With overwrite: may this directory, which is the target or was it a moment ago, be deleted?  Asked right before it
  // is replaced and once more before it is deleted.  One that may not is moved to "<target>.replaced-<n>".  Null: it
  // may.
  std::function<bool(const std::string& directory)> may_delete;
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

  // Where Publish moved what it may not delete; empty where there was no such thing.
  const std::string& moved_aside() const { return moved_aside_; }

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
  // The steps of Publish, up to the new directory's name, where a target is there.
  absl::Status Replace();
  // Renames the directory to a name that is free.
  absl::Status MoveAside(const std::string& directory);
  // Undoes a renaming that may or may not be on the disk; returns `cause` with what became of it.
  absl::Status TakeBack(const absl::Status& cause);

  FileSystem& fs_;
  std::string target_;
  std::string path_;
  StageOptions options_;
  std::unique_ptr<FileLock> lock_;
  bool synced_ = false;
  bool published_ = false;
  bool exchanged_ = false;
  std::string moved_aside_;
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
