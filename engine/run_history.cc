#include "engine/run_history.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"

namespace waypoint::engine {
namespace {

constexpr char kCheckpoints[] = "checkpoint";
constexpr char kExports[] = "export";
constexpr char kStepPrefix[] = "step-";
constexpr char kUnsavedName[] = ".no-checkpoint-yet";
constexpr char kUnsavedText[] = "The run in this directory has published no checkpoint so far.\n";

// Names below a directory that begin as those of checkpoints do; none where it is not there.
absl::StatusOr<std::vector<std::string>> Steps(FileSystem& fs, const std::string& directory) {
  std::vector<std::string> names;
  const auto entries = fs.List(directory);
  if (!entries.ok()) {
    WAYPOINT_RETURN_IF_ERROR(absl::IsNotFound(entries.status()) ? absl::OkStatus() : entries.status());
    return names;
  }
  for (const DirectoryEntry& entry : *entries) {
    if (absl::StartsWith(entry.name, kStepPrefix)) {
      names.push_back(entry.name);
    }
  }
  return names;
}

}  // namespace

std::string RunHistory::Text() const {
  std::vector<std::string> parts;
  if (metrics.lines > 0) {
    parts.push_back(absl::StrCat("metrics.jsonl up to step ", metrics.last_step));
  }
  if (!exports.empty()) {
    parts.push_back(absl::StrCat(exports.size(), exports.size() == 1 ? " export" : " exports", " (the last is \"",
                                 exports.back(), "\")"));
  }
  if (!remains.empty()) {
    parts.push_back(absl::StrCat("\"", absl::StrJoin(remains, "\", \""), "\" in its checkpoint folder"));
  }
  return absl::StrJoin(parts, ", ");
}

absl::StatusOr<RunHistory> FindRunHistory(FileSystem& fs, const std::string& output) {
  RunHistory history;
  WAYPOINT_ASSIGN_OR_RETURN(history.metrics, MetricsLog::Look(MetricsPath(output)));
  const std::string exports = JoinPath(output, kExports);
  WAYPOINT_ASSIGN_OR_RETURN(const bool exported, Exists(fs, exports));
  if (exported) {
    WAYPOINT_ASSIGN_OR_RETURN(const std::vector<DirectoryEntry> formats, fs.List(exports));
    for (const DirectoryEntry& format : formats) {
      WAYPOINT_ASSIGN_OR_RETURN(const std::vector<std::string> steps, Steps(fs, JoinPath(exports, format.name)));
      for (const std::string& step : steps) {
        history.exports.push_back(absl::StrCat(format.name, "/", step));
      }
    }
  }
  const std::string checkpoints = JoinPath(output, kCheckpoints);
  WAYPOINT_ASSIGN_OR_RETURN(history.remains, Steps(fs, checkpoints));
  WAYPOINT_ASSIGN_OR_RETURN(history.unsaved, Exists(fs, JoinPath(checkpoints, kUnsavedName)));
  return history;
}

std::string MetricsPath(const std::string& output) { return JoinPath(output, "metrics.jsonl"); }

absl::Status MarkUnsaved(FileSystem& fs, const std::string& checkpoint_directory) {
  const absl::Status written = WriteSmallFile(fs, JoinPath(checkpoint_directory, kUnsavedName), kUnsavedText);
  if (GetErrorKind(written) == ErrorKind::kExists) {
    return absl::OkStatus();
  }
  WAYPOINT_RETURN_IF_ERROR(written);
  return fs.SyncDirectory(checkpoint_directory);
}

absl::Status MarkSaved(FileSystem& fs, const std::string& checkpoint_directory) {
  const absl::Status removed = fs.RemoveFile(JoinPath(checkpoint_directory, kUnsavedName));
  if (absl::IsNotFound(removed)) {
    return absl::OkStatus();
  }
  WAYPOINT_RETURN_IF_ERROR(removed);
  return fs.SyncDirectory(checkpoint_directory);
}

absl::StatusOr<std::string> KeepMetrics(const std::string& output) {
  FileSystem& fs = PosixFileSystem();
  const std::string path = MetricsPath(output);
  // Whatever stands there: a link is renamed itself.
  const auto entries = fs.List(output);
  if (!entries.ok() && !absl::IsNotFound(entries.status())) {
    return entries.status();
  }
  const auto there = [&entries](const std::string& wanted) {
    for (size_t i = 0; entries.ok() && i < entries->size(); ++i) {
      if ((*entries)[i].name == BaseName(wanted)) {
        return true;
      }
    }
    return false;
  };
  if (!there(path)) {
    return std::string();
  }
  int64_t n = 1;
  while (there(absl::StrCat(path, ".before-", n))) {
    ++n;
  }
  const std::string kept = absl::StrCat(path, ".before-", n);
  WAYPOINT_RETURN_IF_ERROR(fs.Rename(path, kept));
  WAYPOINT_RETURN_IF_ERROR(fs.SyncDirectory(output));
  return kept;
}

}  // namespace waypoint::engine
