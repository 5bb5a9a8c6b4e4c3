#include "checkpoint/storage/confined_directory.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/json.h"
#include "checkpoint/base/status_macros.h"

namespace waypoint {
namespace {

using EntryIterator = std::vector<DirectoryEntry>::const_iterator;

EntryIterator Find(const std::vector<DirectoryEntry>& entries, absl::string_view name) {
  const auto it = std::lower_bound(entries.begin(), entries.end(), name,
                                   [](const DirectoryEntry& entry, absl::string_view n) { return entry.name < n; });
  return it != entries.end() && it->name == name ? it : entries.end();
}

// Is `directory` a snapshot in the Hub's cache, or a folder of one, and `target` in the blobs of the same model?
bool IsBlobOfSnapshot(absl::string_view directory, absl::string_view target) {
  const std::string blobs = DirName(target);
  for (std::string folder(directory); folder != DirName(folder); folder = DirName(folder)) {
    const std::string parent = DirName(folder);
    if (BaseName(parent) == "snapshots" && blobs == JoinPath(DirName(parent), "blobs")) {
      return true;
    }
  }
  return false;
}

}  // namespace

absl::StatusOr<ConfinedDirectory> ConfinedDirectory::Open(FileSystem& fs, const std::string& directory) {
  WAYPOINT_ASSIGN_OR_RETURN(std::string root, fs.RealPath(directory));
  WAYPOINT_ASSIGN_OR_RETURN(std::vector<DirectoryEntry> entries, fs.List(root));
  return ConfinedDirectory(fs, directory, std::move(root), std::move(entries));
}

bool ConfinedDirectory::Has(absl::string_view name) const { return Find(entries_, name) != entries_.end(); }

absl::StatusOr<ConfinedDirectory> ConfinedDirectory::Below(absl::string_view name) const {
  std::string path = JoinPath(path_, name);
  const EntryIterator entry = Find(entries_, name);
  if (entry == entries_.end() || entry->type != FileType::kDirectory) {
    return MakeError(ErrorKind::kIo, absl::StrCat(QuotedPath(path), " is no directory"));
  }
  WAYPOINT_ASSIGN_OR_RETURN(std::vector<DirectoryEntry> entries, fs_->List(path));
  return ConfinedDirectory(*fs_, std::move(path), root_, std::move(entries));
}

absl::StatusOr<std::string> ConfinedDirectory::Resolve(absl::string_view name) const {
  const std::string path = JoinPath(path_, name);
  const EntryIterator entry = Find(entries_, name);
  if (entry == entries_.end()) {
    return MakeError(ErrorKind::kIo, absl::StrCat(QuotedPath(path), " does not exist"));
  }
  if (entry->type == FileType::kFile) {
    return path;
  }
  if (entry->type != FileType::kSymlink) {
    return MakeError(ErrorKind::kIo, absl::StrCat(QuotedPath(path), " is no regular file"));
  }

  WAYPOINT_ASSIGN_OR_RETURN(std::string target, fs_->RealPath(path));
  if (!IsBlobOfSnapshot(root_, target) && target != root_ &&
      !absl::StartsWith(target, absl::StrCat(root_ == "/" ? "" : root_, "/"))) {
    return MakeError(ErrorKind::kPath, absl::StrCat(QuotedPath(path), " is a link to ", QuotedPath(target),
                                                    ", outside of the directory; copy the file into it"));
  }
  WAYPOINT_ASSIGN_OR_RETURN(const FileInfo info, fs_->Stat(target));
  if (info.type != FileType::kFile) {
    return MakeError(ErrorKind::kIo,
                     absl::StrCat(QuotedPath(path), " is a link to ", QuotedPath(target), ", no regular file"));
  }
  return target;
}

}  // namespace waypoint
