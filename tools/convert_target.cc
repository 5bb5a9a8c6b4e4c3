#include "tools/convert_target.h"

#include <algorithm>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/json.h"
#include "checkpoint/base/registry.h"
#include "checkpoint/base/status_macros.h"
#include "tools/command_line.h"

namespace waypoint {
namespace {

bool IsInside(const std::string& path, const std::string& directory) {
  return path == directory || absl::StartsWith(path, directory == "/" ? directory : directory + "/");
}

// The nearest directory on the way to `path` that exists, without links, and what is missing below it.
absl::StatusOr<std::string> ResolveMissing(FileSystem& fs, const std::string& path, std::string* existing) {
  std::string rest;
  std::string parent = path;
  while (true) {
    WAYPOINT_ASSIGN_OR_RETURN(const bool exists, Exists(fs, parent));
    if (exists || parent == "/" || parent == ".") {
      break;
    }
    rest = rest.empty() ? BaseName(parent) : JoinPath(BaseName(parent), rest);
    parent = DirName(parent);
  }
  WAYPOINT_ASSIGN_OR_RETURN(*existing, fs.RealPath(parent));
  return rest.empty() ? *existing : JoinPath(*existing, rest);
}

// Names of what is in the directory and does not belong to the format's checkpoint in it.
absl::StatusOr<std::vector<std::string>> ForeignEntries(FileSystem& fs, CheckpointFormat& format,
                                                        const std::string& target,
                                                        const std::vector<DirectoryEntry>& entries) {
  LoadOptions options;
  options.carry_unknown = true;
  std::vector<std::string> foreign;
  for (const DirectoryEntry& entry : entries) {
    if (!format.Makes(entry)) {
      foreign.push_back(QuotedPath(entry.name));
      continue;
    }
    if (entry.type != FileType::kDirectory) {
      continue;
    }
    // No format has more than one; what of it is the checkpoint's, that alone says.
    if (const auto opened = format.Open(fs, target, options); opened.ok()) {
      WAYPOINT_ASSIGN_OR_RETURN(const std::vector<DirectoryEntry> files, fs.List(JoinPath(target, entry.name)));
      for (const DirectoryEntry& file : files) {
        // The target may be named through a link.
        const std::string name = JoinPath(entry.name, file.name);
        if (std::none_of(opened->assets.begin(), opened->assets.end(),
                         [&name](const Asset& asset) { return absl::EndsWith(asset.path, "/" + name); })) {
          foreign.push_back(QuotedPath(name));
        }
      }
    }
  }
  return foreign;
}

// Replaced is one checkpoint of one format; what it did not write and does not carry along is somebody's own.
absl::Status CheckReplaceable(FileSystem& fs, const std::string& target) {
  WAYPOINT_ASSIGN_OR_RETURN(const FileInfo info, fs.Stat(target));
  std::vector<DirectoryEntry> entries;
  if (info.type == FileType::kDirectory) {
    WAYPOINT_ASSIGN_OR_RETURN(entries, fs.List(target));
    if (entries.empty()) {
      return absl::OkStatus();
    }
  }
  std::vector<CheckpointFormat*> formats;
  std::vector<std::string> names;
  for (const std::string& name : Registry<CheckpointFormat>::Global().Names()) {
    CheckpointFormat* const format = Registry<CheckpointFormat>::Global().Find(name);
    // One whose save did not finish is one, too.
    const auto fits = entries.empty() ? absl::StatusOr<bool>(false) : format->Probe(fs, target);
    if (fits.ok() ? *fits : GetErrorKind(fits.status()) == ErrorKind::kTruncated) {
      formats.push_back(format);
      names.push_back(name);
    }
  }
  if (formats.empty()) {
    return MakeError(ErrorKind::kExists,
                     absl::StrCat("\"", target, "\" exists and is neither a checkpoint nor an empty ",
                                  "directory; remove it yourself if it is not needed"));
  }
  if (formats.size() > 1) {
    return MakeError(ErrorKind::kExists,
                     absl::StrCat("\"", target, "\" holds checkpoints of several formats (", absl::StrJoin(names, ", "),
                                  "); remove it yourself if none is needed"));
  }
  constexpr size_t kSpelledOut = 10;
  WAYPOINT_ASSIGN_OR_RETURN(const std::vector<std::string> own, ForeignEntries(fs, *formats[0], target, entries));
  if (own.empty()) {
    return absl::OkStatus();
  }
  const size_t shown = std::min(own.size(), kSpelledOut);
  return MakeError(
      ErrorKind::kExists,
      absl::StrCat("\"", target, "\" holds a checkpoint and what belongs to none, which would be deleted: ",
                   absl::StrJoin(own.begin(), own.begin() + shown, ", "),
                   shown < own.size() ? absl::StrCat(" and ", own.size() - shown, " more") : "",
                   "; move that elsewhere, or choose another directory"));
}

}  // namespace

absl::StatusOr<CheckpointFormat*> FindTargetFormat(const CheckpointFormat& source, const CheckpointMetadata& metadata,
                                                   const std::string& to) {
  Registry<CheckpointFormat>& formats = Registry<CheckpointFormat>::Global();
  const std::string choices = absl::StrJoin(formats.Names(), ", ");
  std::string name = to;
  if (to.empty() || to == "auto") {
    name = source.external() ? "native" : metadata.external_format();
    if (name.empty()) {
      return MakeError(ErrorKind::kRequest,
                       absl::StrCat("the source does not say which external format its model has; ",
                                    "choose one with --to (linked: ", choices, ")"));
    }
  }
  CheckpointFormat* format = formats.Find(name);
  if (format == nullptr) {
    return MakeError(ErrorKind::kRequest,
                     absl::StrCat("format \"", name, "\" is not linked in; choose --to from: ", choices));
  }
  return format;
}

absl::Status CheckTargetPath(FileSystem& fs, const std::string& source, const std::string& target, bool overwrite) {
  if (target.empty()) {
    return MakeError(ErrorKind::kRequest, "the target is empty");
  }
  WAYPOINT_ASSIGN_OR_RETURN(const std::string real_source, fs.RealPath(source));
  std::string existing;
  WAYPOINT_ASSIGN_OR_RETURN(const std::string real_target, ResolveMissing(fs, target, &existing));
  for (const absl::string_view part : absl::StrSplit(real_target, '/')) {
    if (part == "..") {
      return MakeError(ErrorKind::kRequest, absl::StrCat("the target \"", target,
                                                         "\" goes through a directory that does not "
                                                         "exist, and back; write it without \"..\""));
    }
  }
  if (real_target == real_source) {
    return MakeError(ErrorKind::kRequest, absl::StrCat("source and target are the same directory: \"", target, "\""));
  }
  if (IsInside(real_target, real_source)) {
    return MakeError(ErrorKind::kRequest,
                     absl::StrCat("the target \"", target, "\" lies inside the source \"", source, "\""));
  }
  if (IsInside(real_source, real_target)) {
    return MakeError(ErrorKind::kRequest,
                     absl::StrCat("the target \"", target, "\" holds the source \"", source, "\""));
  }
  WAYPOINT_ASSIGN_OR_RETURN(const bool exists, Exists(fs, target));
  if (!exists) {
    return absl::OkStatus();
  }
  if (!overwrite) {
    return MakeError(ErrorKind::kExists, absl::StrCat("\"", target, "\" exists; --overwrite replaces it"));
  }
  return CheckReplaceable(fs, target);
}

absl::Status CheckSpace(FileSystem& fs, const std::string& target, int64_t bytes) {
  std::string existing;
  WAYPOINT_RETURN_IF_ERROR(ResolveMissing(fs, DirName(target), &existing).status());
  WAYPOINT_ASSIGN_OR_RETURN(const int64_t free_bytes, fs.FreeBytes(existing));
  if (free_bytes < bytes) {
    return MakeError(ErrorKind::kNoSpace,
                     absl::StrCat("the output has ", HumanBytes(static_cast<double>(bytes)), ", \"", existing,
                                  "\" has room for ", HumanBytes(static_cast<double>(free_bytes))));
  }
  return absl::OkStatus();
}

}  // namespace waypoint
