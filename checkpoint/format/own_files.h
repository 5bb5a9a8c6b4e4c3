#ifndef CHECKPOINT_FORMAT_OWN_FILES_H_
#define CHECKPOINT_FORMAT_OWN_FILES_H_

// CheckpointFormat::OwnFiles of a directory that is known by the names of its files.  Thread-safe.

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "checkpoint/storage/file_system.h"

namespace waypoint {

// Names of the files right below the directory that `makes` says yes to, in their order.
inline absl::StatusOr<std::vector<std::string>> FilesNamedLike(FileSystem& fs, const std::string& directory,
                                                               const std::function<bool(absl::string_view)>& makes) {
  absl::StatusOr<std::vector<DirectoryEntry>> entries = fs.List(directory);
  if (!entries.ok()) {
    return entries.status();
  }
  std::vector<std::string> names;
  for (const DirectoryEntry& entry : *entries) {
    if (entry.type != FileType::kDirectory && makes(entry.name)) {
      names.push_back(entry.name);
    }
  }
  return names;
}

}  // namespace waypoint

#endif  // CHECKPOINT_FORMAT_OWN_FILES_H_
