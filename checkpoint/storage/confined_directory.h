#ifndef CHECKPOINT_STORAGE_CONFINED_DIRECTORY_H_
#define CHECKPOINT_STORAGE_CONFINED_DIRECTORY_H_

// A directory of unknown origin, read without leaving it.
//
//   WAYPOINT_ASSIGN_OR_RETURN(const ConfinedDirectory files, ConfinedDirectory::Open(fs, "Llama-3-8B"));
//   WAYPOINT_ASSIGN_OR_RETURN(const std::string path, files.Resolve("config.json"));
//
// Listed once, when opened.  The directory itself may be a link.  A file in it may be a link to a file below the same
// directory, or, as in the cache of the Hugging Face Hub, from <model>/snapshots/<revision>/ or any folder in it to a
// file directly in <model>/blobs/.  All other links are refused, and so is whatever is no regular file.
// Thread-compatible: const methods may run concurrently.

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "checkpoint/storage/file_system.h"

namespace waypoint {

class ConfinedDirectory {
 public:
  // `fs` outlives the object.  Errors: E_IO when there is no such directory.
  static absl::StatusOr<ConfinedDirectory> Open(FileSystem& fs, const std::string& directory);

  // As the caller gave it.
  const std::string& path() const { return path_; }
  // In bytewise order.
  const std::vector<DirectoryEntry>& entries() const { return entries_; }

  // Is there an entry of that name, of whatever type?
  bool Has(absl::string_view name) const;

  // The directory of that name in it, no link, confined to the same root.  Errors: E_IO when it is no directory.
  absl::StatusOr<ConfinedDirectory> Below(absl::string_view name) const;

  // The path to open: that of the entry, or of the link's end.  Errors: E_IO when there is no such entry, it is no
  // regular file or the link leads nowhere, E_PATH when the link leaves the directory.
  absl::StatusOr<std::string> Resolve(absl::string_view name) const;

 private:
  ConfinedDirectory(FileSystem& fs, std::string path, std::string root, std::vector<DirectoryEntry> entries)
      : fs_(&fs), path_(std::move(path)), root_(std::move(root)), entries_(std::move(entries)) {}

  FileSystem* fs_;
  std::string path_;
  std::string root_;  // without links
  std::vector<DirectoryEntry> entries_;
};

}  // namespace waypoint

#endif  // CHECKPOINT_STORAGE_CONFINED_DIRECTORY_H_
