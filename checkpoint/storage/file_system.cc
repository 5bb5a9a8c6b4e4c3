#include "checkpoint/storage/file_system.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"

namespace waypoint {
namespace {

absl::string_view StripTrailingSlashes(absl::string_view path) {
  while (path.size() > 1 && path.back() == '/') {
    path.remove_suffix(1);
  }
  return path;
}

absl::Status IgnoreNotFound(absl::Status status) { return absl::IsNotFound(status) ? absl::OkStatus() : status; }

absl::Status RemoveEntry(FileSystem& fs, const std::string& path, FileType type) {
  if (type != FileType::kDirectory) {
    return IgnoreNotFound(fs.RemoveFile(path));
  }
  WAYPOINT_ASSIGN_OR_RETURN(const std::vector<DirectoryEntry> entries, fs.List(path));
  for (const DirectoryEntry& entry : entries) {
    WAYPOINT_RETURN_IF_ERROR(RemoveEntry(fs, JoinPath(path, entry.name), entry.type));
  }
  return IgnoreNotFound(fs.RemoveDirectory(path));
}

}  // namespace

absl::StatusOr<bool> Exists(FileSystem& fs, const std::string& path) {
  const absl::StatusOr<FileInfo> info = fs.Stat(path);
  if (info.ok()) {
    return true;
  }
  if (absl::IsNotFound(info.status())) {
    return false;
  }
  return info.status();
}

absl::Status MakeDirectories(FileSystem& fs, const std::string& path) {
  const std::string directory(StripTrailingSlashes(path));
  const absl::StatusOr<FileInfo> info = fs.Stat(directory);
  if (info.ok()) {
    return info->type == FileType::kDirectory
               ? absl::OkStatus()
               : MakeError(ErrorKind::kExists, absl::StrCat("\"", directory, "\" exists and is no directory"));
  }
  if (!absl::IsNotFound(info.status())) {
    return info.status();
  }
  const std::string parent = DirName(directory);
  if (parent != directory) {
    WAYPOINT_RETURN_IF_ERROR(MakeDirectories(fs, parent));
  }
  const absl::Status made = fs.MakeDirectory(directory);
  if (!made.ok() && GetErrorKind(made) != ErrorKind::kExists) {
    return made;
  }
  // A file below is only as durable as every name on the way to it.
  return fs.SyncDirectory(parent);
}

absl::Status RemoveTree(FileSystem& fs, const std::string& path) {
  const std::string name = BaseName(path);
  if (name.empty() || name == "." || name == ".." || name == "/") {
    return MakeError(ErrorKind::kRequest, absl::StrCat("\"", path, "\" does not name a removable entry"));
  }
  // The parent's listing, unlike Stat, tells a link from what it points to.
  const std::string parent = DirName(path);
  const absl::StatusOr<std::vector<DirectoryEntry>> siblings = fs.List(parent);
  if (!siblings.ok()) {
    return IgnoreNotFound(siblings.status());
  }
  for (const DirectoryEntry& entry : *siblings) {
    if (entry.name == name) {
      return RemoveEntry(fs, JoinPath(parent, name), entry.type);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadSmallFile(FileSystem& fs, const std::string& path, int64_t max_bytes,
                                          absl::string_view limit_name) {
  WAYPOINT_ASSIGN_OR_RETURN(const std::unique_ptr<ReadableFile> file, fs.OpenForRead(path, OpenOptions()));
  if (file->size_bytes() > max_bytes) {
    return MakeError(ErrorKind::kLimit, absl::StrCat("\"", path, "\" has ", file->size_bytes(), " bytes, limit ",
                                                     limit_name, " is ", max_bytes));
  }
  std::string contents(file->size_bytes(), '\0');
  WAYPOINT_RETURN_IF_ERROR(file->Read(0, absl::MakeSpan(&contents[0], contents.size())));
  return contents;
}

absl::Status WriteSmallFile(FileSystem& fs, const std::string& path, absl::string_view contents) {
  CreateOptions options;
  options.size_bytes = static_cast<int64_t>(contents.size());
  WAYPOINT_ASSIGN_OR_RETURN(std::unique_ptr<WritableFile> file, fs.Create(path, options));
  WAYPOINT_RETURN_IF_ERROR(file->Write(0, absl::MakeConstSpan(contents.data(), contents.size())));
  WAYPOINT_RETURN_IF_ERROR(file->Sync());
  return file->Close();
}

std::string JoinPath(absl::string_view directory, absl::string_view name) {
  if (directory.empty()) {
    return std::string(name);
  }
  if (name.empty()) {
    return std::string(directory);
  }
  return absl::StrCat(absl::StripSuffix(directory, "/"), "/", absl::StripPrefix(name, "/"));
}

std::string BaseName(absl::string_view path) {
  path = StripTrailingSlashes(path);
  const size_t slash = path.rfind('/');
  return std::string(slash == absl::string_view::npos || path.size() == 1 ? path : path.substr(slash + 1));
}

std::string DirName(absl::string_view path) {
  path = StripTrailingSlashes(path);
  const size_t slash = path.rfind('/');
  if (slash == absl::string_view::npos) {
    return ".";
  }
  return std::string(StripTrailingSlashes(path.substr(0, slash == 0 ? 1 : slash)));
}

}  // namespace waypoint
