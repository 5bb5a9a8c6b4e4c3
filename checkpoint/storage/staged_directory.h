#ifndef CHECKPOINT_STORAGE_STAGED_DIRECTORY_H_
#define CHECKPOINT_STORAGE_STAGED_DIRECTORY_H_

// A directory that appears whole or not at all.
//
//   WAYPOINT_ASSIGN_OR_RETURN(auto staged, StagedDirectory::Create(fs, "out/model", {.overwrite = false}));
//   ... create and sync files below staged->path() ...
//   WAYPOINT_RETURN_IF_ERROR(staged->Publish());
//
// Files go to ".<name>.tmp-<n>" beside the target.  Publish syncs the staging directory, renames it to the target and
// syncs the parent: before the rename the old state is visible, after it the new one.  An existing target is replaced
// by exchanging the two directories in one step, then the old one is removed.  The destructor removes what was not
// published.  What a killed process left behind (stage names of dead writers: each holds a lock inside) is removed by
// the next Create for the same target.  One thread.

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoint/storage/file_system.h"

namespace waypoint {

struct StageOptions {
  // Replace an existing target.  Without it, Create fails with E_EXISTS.
  bool overwrite = false;
};

class StagedDirectory {
 public:
  // Makes missing parents.  Errors: E_EXISTS, E_IO, E_LOCKED when another live writer stages the same target.
  static absl::StatusOr<std::unique_ptr<StagedDirectory>> Create(FileSystem& fs, const std::string& target,
                                                                 const StageOptions& options);
  ~StagedDirectory();
  StagedDirectory(const StagedDirectory&) = delete;
  StagedDirectory& operator=(const StagedDirectory&) = delete;

  // Where to write.
  const std::string& path() const { return path_; }
  const std::string& target() const { return target_; }

  // Durable and visible when OK.  After a failure the target is as it was.
  absl::Status Publish();

 private:
  StagedDirectory(FileSystem& fs, std::string target, std::string path, StageOptions options)
      : fs_(fs), target_(std::move(target)), path_(std::move(path)), options_(options) {}

  FileSystem& fs_;
  std::string target_;
  std::string path_;
  StageOptions options_;
  std::unique_ptr<FileLock> lock_;
  bool published_ = false;
};

}  // namespace waypoint

#endif  // CHECKPOINT_STORAGE_STAGED_DIRECTORY_H_
