#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/json.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/checkpointer/checkpointer.h"

namespace waypoint {
namespace {

constexpr char kCheckpoints[] = "checkpoint";
constexpr char kExports[] = "export";
constexpr char kSnapshots[] = "snapshots";

// Directories in `path`, links to some among them.
absl::StatusOr<std::vector<std::string>> DirectoriesIn(FileSystem& fs, const std::string& path) {
  WAYPOINT_ASSIGN_OR_RETURN(const std::vector<DirectoryEntry> entries, fs.List(path));
  std::vector<std::string> directories;
  for (const DirectoryEntry& entry : entries) {
    if (entry.type == FileType::kDirectory || entry.type == FileType::kSymlink) {
      const absl::StatusOr<FileInfo> info = fs.Stat(JoinPath(path, entry.name));
      if (info.ok() && info->type == FileType::kDirectory) {
        directories.push_back(entry.name);
      }
    }
  }
  return directories;
}

bool Contains(const std::vector<std::string>& names, absl::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// The newest checkpoint of a folder of them; its path is empty when there is none.
absl::StatusOr<FoundCheckpoint> NewestIn(FileSystem& fs, const std::string& root, absl::string_view what) {
  FoundCheckpoint found;
  std::vector<PassedOver> passed_over;
  WAYPOINT_ASSIGN_OR_RETURN(const absl::optional<CheckpointRef> latest, CheckpointRoot(fs, root).Latest(&passed_over));
  for (PassedOver& none : passed_over) {
    found.notes.push_back(std::move(none.why));
  }
  if (latest.has_value()) {
    found.path = latest->path;
    found.notes.push_back(absl::StrCat("took the newest checkpoint of ", what, ", ", QuotedPath(latest->path)));
  }
  return found;
}

// Of a folder of exports: one folder of checkpoints for each format.
absl::StatusOr<FoundCheckpoint> NewestExport(FileSystem& fs, const std::string& exports) {
  WAYPOINT_ASSIGN_OR_RETURN(const std::vector<std::string> formats, DirectoriesIn(fs, exports));
  std::vector<FoundCheckpoint> newest;
  std::vector<std::string> paths;
  for (const std::string& format : formats) {
    WAYPOINT_ASSIGN_OR_RETURN(FoundCheckpoint one, NewestIn(fs, JoinPath(exports, format), "a folder of exports"));
    if (!one.path.empty()) {
      paths.push_back(QuotedPath(one.path));
      newest.push_back(std::move(one));
    }
  }
  if (newest.size() > 1) {
    return MakeError(
        ErrorKind::kAmbiguous,
        absl::StrCat(QuotedPath(exports), " holds exports of several formats; give ", absl::StrJoin(paths, " or ")));
  }
  return newest.empty() ? FoundCheckpoint() : std::move(newest[0]);
}

// The checkpoint that is meant by a directory around it; its path is empty when there is none.
absl::StatusOr<FoundCheckpoint> FindInside(FileSystem& fs, const std::string& path) {
  WAYPOINT_ASSIGN_OR_RETURN(FoundCheckpoint found, NewestIn(fs, path, "this folder"));
  if (!found.path.empty()) {
    return found;
  }
  WAYPOINT_ASSIGN_OR_RETURN(const std::vector<std::string> directories, DirectoriesIn(fs, path));
  if (Contains(directories, kCheckpoints)) {
    WAYPOINT_ASSIGN_OR_RETURN(found, NewestIn(fs, JoinPath(path, kCheckpoints), "this run"));
    if (!found.path.empty()) {
      return found;
    }
  }
  if (Contains(directories, kExports)) {
    WAYPOINT_ASSIGN_OR_RETURN(found, NewestExport(fs, JoinPath(path, kExports)));
    if (!found.path.empty()) {
      return found;
    }
  }
  if (BaseName(path) == kExports) {
    WAYPOINT_ASSIGN_OR_RETURN(found, NewestExport(fs, path));
    if (!found.path.empty()) {
      return found;
    }
  }
  if (Contains(directories, kSnapshots)) {
    const std::string snapshots = JoinPath(path, kSnapshots);
    WAYPOINT_ASSIGN_OR_RETURN(const std::vector<std::string> revisions, DirectoriesIn(fs, snapshots));
    if (revisions.size() == 1) {
      found.path = JoinPath(snapshots, revisions[0]);
      found.notes = {absl::StrCat("took the only snapshot of a model in the cache of the Hugging Face Hub, ",
                                  QuotedPath(found.path))};
    }
  }
  return found;
}

// Why nothing is at a path.
absl::Status ExplainMissing(FileSystem& fs, const std::string& path, const absl::Status& missing) {
  const absl::StatusOr<std::vector<DirectoryEntry>> siblings = fs.List(DirName(path));
  if (siblings.ok()) {
    for (const DirectoryEntry& entry : *siblings) {
      if (entry.name == BaseName(path) && entry.type == FileType::kSymlink) {
        return MakeError(ErrorKind::kIo, absl::StrCat(QuotedPath(path),
                                                      " is a link that leads nowhere; bring back what it points to, or "
                                                      "give another path"));
      }
    }
  }
  return missing;
}

}  // namespace

absl::StatusOr<FoundCheckpoint> FindCheckpoint(FileSystem& fs, const std::string& path, const std::string& format) {
  const absl::StatusOr<FileInfo> info = fs.Stat(path);
  if (absl::IsNotFound(info.status())) {
    return ExplainMissing(fs, path, info.status());
  }
  if (info.ok() && info->type != FileType::kDirectory) {
    return DetectFormat(fs, path).status();
  }
  FoundCheckpoint found;
  found.path = path;
  const absl::StatusOr<CheckpointFormat*> here = FindFormat(fs, path, format);
  if (info.ok()) {
    // A format that is named is not looked for, so look whether it is here.
    const absl::StatusOr<bool> fits = here.ok() ? (*here)->Probe(fs, path) : absl::StatusOr<bool>(false);
    const bool nothing_here = here.ok() ? fits.ok() && !*fits : GetErrorKind(here.status()) == ErrorKind::kUnsupported;
    if (nothing_here) {
      WAYPOINT_ASSIGN_OR_RETURN(FoundCheckpoint inside, FindInside(fs, path));
      if (!inside.path.empty()) {
        WAYPOINT_ASSIGN_OR_RETURN(inside.format, FindFormat(fs, inside.path, format));
        return inside;
      }
    }
  }
  WAYPOINT_ASSIGN_OR_RETURN(found.format, here);
  return found;
}

}  // namespace waypoint
