#include "checkpoint/checkpointer/replaced_directory.h"

#include <algorithm>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/json.h"
#include "checkpoint/base/registry.h"
#include "checkpoint/base/status_macros.h"

namespace waypoint {
namespace {

constexpr size_t kSpelledOut = 10;
// A checkpoint's directory holds directories of files, and no more.
constexpr int kMaxDepth = 8;

absl::Status NoCheckpointError(const std::string& target) {
  return MakeError(
      ErrorKind::kExists,
      absl::StrCat(QuotedPath(target), " exists and is neither a checkpoint nor an empty directory; remove it ",
                   "yourself if it is not needed"));
}

// Of whose checkpoint it is.
absl::StatusOr<CheckpointFormat*> FormatOf(FileSystem& fs, const std::string& target) {
  std::vector<CheckpointFormat*> formats;
  std::vector<std::string> names;
  for (const std::string& name : Registry<CheckpointFormat>::Global().Names()) {
    CheckpointFormat* const format = Registry<CheckpointFormat>::Global().Find(name);
    const auto fits = format->Probe(fs, target);
    // One whose save did not finish is one, too.
    if (fits.ok() ? *fits : GetErrorKind(fits.status()) == ErrorKind::kTruncated) {
      formats.push_back(format);
      names.push_back(name);
    }
  }
  if (formats.empty()) {
    return NoCheckpointError(target);
  }
  if (formats.size() > 1) {
    return MakeError(ErrorKind::kExists,
                     absl::StrCat(QuotedPath(target), " holds checkpoints of several formats (",
                                  absl::StrJoin(names, ", "), "); remove it yourself if none is needed"));
  }
  return formats[0];
}

}  // namespace

absl::Status ReplacedDirectory::Read(FileSystem& fs, const std::string& directory, const std::string& prefix,
                                     Contents* contents) {
  if (std::count(prefix.begin(), prefix.end(), '/') > kMaxDepth) {
    return MakeError(ErrorKind::kExists,
                     absl::StrCat(QuotedPath(directory), " lies deeper than any checkpoint's file"));
  }
  WAYPOINT_ASSIGN_OR_RETURN(const std::vector<DirectoryEntry> entries, fs.List(directory));
  for (const DirectoryEntry& entry : entries) {
    const std::string name = absl::StrCat(prefix, entry.name);
    const std::string path = JoinPath(directory, entry.name);
    if (entry.type == FileType::kDirectory) {
      WAYPOINT_ASSIGN_OR_RETURN(const FileInfo info, fs.Stat(path));
      (*contents)[name + "/"] = info.identity;
      WAYPOINT_RETURN_IF_ERROR(Read(fs, path, name + "/", contents));
      continue;
    }
    // A link to nothing has no more to tell.
    const absl::StatusOr<FileInfo> info = fs.Stat(path);
    if (!info.ok() && !absl::IsNotFound(info.status())) {
      return info.status();
    }
    (*contents)[name] =
        info.ok() ? absl::StrCat(info->identity, " ", info->size_bytes, " ", info->modified_nanoseconds) : "a link";
  }
  return absl::OkStatus();
}

absl::StatusOr<ReplacedDirectory> ReplacedDirectory::Look(FileSystem& fs, const std::string& target,
                                                          const std::vector<Asset>& assets) {
  ReplacedDirectory before;
  WAYPOINT_ASSIGN_OR_RETURN(const bool exists, Exists(fs, target));
  if (!exists) {
    return before;
  }
  WAYPOINT_ASSIGN_OR_RETURN(const FileInfo info, fs.Stat(target));
  if (info.type != FileType::kDirectory) {
    return NoCheckpointError(target);
  }
  before.identity_ = info.identity;
  WAYPOINT_RETURN_IF_ERROR(Read(fs, target, "", &before.contents_));
  if (before.contents_.empty()) {
    return before;
  }
  WAYPOINT_ASSIGN_OR_RETURN(const CheckpointFormat* const format, FormatOf(fs, target));
  WAYPOINT_ASSIGN_OR_RETURN(const std::vector<std::string> named, format->OwnFiles(fs, target));
  std::set<std::string> known(named.begin(), named.end());
  for (const Asset& asset : assets) {
    // In the format's place for them: below a folder in ours, beside the weights in others'.
    known.insert(asset.name);
    known.insert(absl::StrCat("assets/", asset.name));
  }
  std::vector<std::string> foreign;
  for (const auto& [name, identity] : before.contents_) {
    // A directory goes with its files; an empty one was made by no format.
    const bool is_directory = absl::EndsWith(name, "/");
    const auto inside = before.contents_.upper_bound(name);
    const bool holds = is_directory && inside != before.contents_.end() && absl::StartsWith(inside->first, name);
    if (known.count(name) == 0 && !holds) {
      foreign.push_back(QuotedPath(absl::StripSuffix(name, "/")));
    }
  }
  if (foreign.empty()) {
    return before;
  }
  const size_t shown = std::min(foreign.size(), kSpelledOut);
  return MakeError(
      ErrorKind::kExists,
      absl::StrCat(QuotedPath(target), " holds a checkpoint and what belongs to none, which would be deleted: ",
                   absl::StrJoin(foreign.begin(), foreign.begin() + shown, ", "),
                   shown < foreign.size() ? absl::StrCat(" and ", foreign.size() - shown, " more") : "",
                   "; move that elsewhere, or choose another directory"));
}

bool ReplacedDirectory::MayDelete(FileSystem& fs, const std::string& directory) const {
  const absl::StatusOr<FileInfo> info = fs.Stat(directory);
  Contents now;
  return info.ok() && !identity_.empty() && info->identity == identity_ && Read(fs, directory, "", &now).ok() &&
         now == contents_;
}

}  // namespace waypoint
