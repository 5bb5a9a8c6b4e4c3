#include "tools/convert_target.h"

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
  return absl::OkStatus();
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
