#ifndef CHECKPOINT_CHECKPOINTER_REPLACED_DIRECTORY_H_
#define CHECKPOINT_CHECKPOINTER_REPLACED_DIRECTORY_H_

// What lies where a checkpoint is about to be written, and whether it may be deleted.
//
//   WAYPOINT_ASSIGN_OR_RETURN(const ReplacedDirectory before, ReplacedDirectory::Look(fs, "out", assets));
//   ... write beside it, exchange the two ...
//   if (before.MayDelete(fs, exchanged)) ...
//
// What the checkpoint there names as its own may go, and what the new one brings again.  Nobody else's file is deleted:
// one that is there when work begins is refused, one that comes later is found by MayDelete.  Thread-compatible.

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "checkpoint/format/checkpoint_format.h"
#include "checkpoint/storage/file_system.h"

namespace waypoint {

class ReplacedDirectory {
 public:
  // Looks at `target`, which need not exist.  `assets` travel with the new checkpoint: files of their names are brought
  // again.  Errors: E_EXISTS for a target that is neither a checkpoint nor an empty directory, that holds checkpoints
  // of several formats, or files that belong to none, which are named; E_IO.
  static absl::StatusOr<ReplacedDirectory> Look(FileSystem& fs, const std::string& target,
                                                const std::vector<Asset>& assets);

  // Is `directory` the one that was looked at, with the same files in it?  False too where that cannot be told.
  bool MayDelete(FileSystem& fs, const std::string& directory) const;

 private:
  // By relative name: what tells each file, and each directory, from another and from itself with other contents.
  using Contents = std::map<std::string, std::string>;
  static absl::Status Read(FileSystem& fs, const std::string& directory, const std::string& prefix, Contents* contents);

  std::string identity_;  // empty: there was nothing
  Contents contents_;
};

}  // namespace waypoint

#endif  // CHECKPOINT_CHECKPOINTER_REPLACED_DIRECTORY_H_
