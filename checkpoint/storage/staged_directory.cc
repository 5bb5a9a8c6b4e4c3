#include "checkpoint/storage/staged_directory.h"

#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "checkpoint/base/catch_allocation.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"

namespace waypoint {
namespace {

// Stale stages that cannot be removed (a busy file on NFS) are passed over, but not without end.
constexpr int kMaxStages = 1000;
constexpr char kTemporaryMark[] = ".tmp-";
constexpr char kLockSuffix[] = "lock";

// ".<name>.tmp-": all names that a writer of `target` makes beside it begin like this.
std::string TemporaryPrefix(const std::string& target) { return absl::StrCat(".", BaseName(target), kTemporaryMark); }

std::string LockPath(const std::string& target) {
  return JoinPath(DirName(target), absl::StrCat(TemporaryPrefix(target), kLockSuffix));
}

std::string StagePath(const std::string& target, int n) {
  return JoinPath(DirName(target), absl::StrCat(TemporaryPrefix(target), n));
}

bool IsStageName(absl::string_view name, absl::string_view prefix) {
  return absl::ConsumePrefix(&name, prefix) && !name.empty() &&
         name.find_first_not_of("0123456789") == absl::string_view::npos;
}

// Children first, so that a directory that is durable holds durable ones only.
absl::Status SyncTree(FileSystem& fs, const std::string& path) {
  WAYPOINT_ASSIGN_OR_RETURN(const std::vector<DirectoryEntry> entries, fs.List(path));
  for (const DirectoryEntry& entry : entries) {
    if (entry.type == FileType::kDirectory) {
      WAYPOINT_RETURN_IF_ERROR(SyncTree(fs, JoinPath(path, entry.name)));
    }
  }
  return fs.SyncDirectory(path);
}

// Holding the target's lock.  `stays` is the first removal that failed.
absl::Status RemoveStages(FileSystem& fs, const std::string& target, const std::vector<DirectoryEntry>& siblings,
                          absl::Status* stays) {
  const std::string prefix = TemporaryPrefix(target);
  bool parent_synced = false;
  for (const DirectoryEntry& entry : siblings) {
    if (!IsStageName(entry.name, prefix)) {
      continue;
    }
    if (!parent_synced) {
      // A writer may have died between its rename and the sync.  On the disk the stage may still be the target then,
      // and must not lose a file before the rename is there too.
      WAYPOINT_RETURN_IF_ERROR(fs.SyncDirectory(DirName(target)));
      parent_synced = true;
    }
    stays->Update(RemoveTree(fs, JoinPath(DirName(target), entry.name)));
  }
  return absl::OkStatus();
}

absl::Status NoExchangeError(const absl::Status& cause, const std::string& target) {
  return Annotate(cause, absl::StrCat("\"", target,
                                      "\" cannot be replaced in one step; write to another directory, "
                                      "or remove this one first"));
}

}  // namespace

std::string StagedTargetName(absl::string_view entry_name) {
  const size_t end = entry_name.rfind(kTemporaryMark);
  if (!absl::StartsWith(entry_name, ".") || end == absl::string_view::npos) {
    return "";
  }
  const absl::string_view rest = entry_name.substr(end + strlen(kTemporaryMark));
  return rest == kLockSuffix || IsStageName(rest, "") ? std::string(entry_name.substr(1, end - 1)) : "";
}

absl::Status RemoveStaleStages(FileSystem& fs, const std::string& target) {
  WAYPOINT_ASSIGN_OR_RETURN(const std::unique_ptr<FileLock> lock, fs.Lock(LockPath(target)));
  WAYPOINT_ASSIGN_OR_RETURN(const std::vector<DirectoryEntry> siblings, fs.List(DirName(target)));
  absl::Status status;
  WAYPOINT_RETURN_IF_ERROR(RemoveStages(fs, target, siblings, &status));
  status.Update(fs.RemoveFile(LockPath(target)));
  status.Update(fs.SyncDirectory(DirName(target)));
  return status;
}

absl::StatusOr<std::unique_ptr<StagedDirectory>> StagedDirectory::Create(FileSystem& fs, const std::string& target,
                                                                         const StageOptions& options) {
  std::string resolved = target;
  WAYPOINT_ASSIGN_OR_RETURN(const bool exists, Exists(fs, target));
  if (exists) {
    if (!options.overwrite) {
      return MakeError(ErrorKind::kExists,
                       absl::StrCat("\"", target, "\" exists already; name another directory or ask to overwrite"));
    }
    // Beside the directory itself, not beside a link to it: a rename does not cross file systems.
    WAYPOINT_ASSIGN_OR_RETURN(resolved, fs.RealPath(target));
    WAYPOINT_ASSIGN_OR_RETURN(const FileInfo info, fs.Stat(resolved));
    if (info.type != FileType::kDirectory) {
      return MakeError(ErrorKind::kExists, absl::StrCat("\"", target, "\" is no directory and is not overwritten"));
    }
  }
  const std::string name = BaseName(resolved);
  if (name.empty() || name == "/" || name == "." || name == "..") {
    return MakeError(ErrorKind::kRequest, absl::StrCat("\"", target, "\" cannot be made or replaced by a rename"));
  }
  while (resolved.back() == '/') {
    resolved.pop_back();
  }
  WAYPOINT_RETURN_IF_ERROR(MakeDirectories(fs, DirName(resolved)));
  std::unique_ptr<StagedDirectory> staged(new StagedDirectory(fs, resolved, "", options));
  WAYPOINT_RETURN_IF_ERROR(staged->Prepare());
  return staged;
}

StagedDirectory::~StagedDirectory() {
  // Failures leave temporary names, which the next writer removes.
  UnlessOutOfMemory([this] {
    if (!published_ && !keep_stage_ && !path_.empty()) {
      RemoveTree(fs_, path_).IgnoreError();
    }
  });
  UnlessOutOfMemory([this] {
    if (lock_ != nullptr) {
      // Removed while it is held: whoever opened it meanwhile sees that the name is gone and starts over.
      fs_.RemoveFile(LockPath(target_)).IgnoreError();
    }
  });
}

absl::Status StagedDirectory::Prepare() {
  absl::StatusOr<std::unique_ptr<FileLock>> lock = fs_.Lock(LockPath(target_));
  if (!lock.ok()) {
    return GetErrorKind(lock.status()) == ErrorKind::kLocked
               ? Annotate(lock.status(), absl::StrCat("\"", target_, "\" is being written"))
               : lock.status();
  }
  lock_ = *std::move(lock);
  WAYPOINT_ASSIGN_OR_RETURN(const std::vector<DirectoryEntry> siblings, fs_.List(DirName(target_)));
  for (const DirectoryEntry& entry : siblings) {
    if (entry.name == BaseName(target_) && entry.type == FileType::kSymlink) {
      return MakeError(ErrorKind::kPath, absl::StrCat("\"", target_, "\" is a link to nothing"));
    }
  }
  // What stays takes disk space but is in nobody's way: MakeStage uses the next number.
  absl::Status stays;
  WAYPOINT_RETURN_IF_ERROR(RemoveStages(fs_, target_, siblings, &stays));
  WAYPOINT_RETURN_IF_ERROR(MakeStage());
  WAYPOINT_ASSIGN_OR_RETURN(const bool exists, Exists(fs_, target_));
  // Better now than after the last byte.
  return exists ? CheckExchange() : absl::OkStatus();
}

absl::Status StagedDirectory::MakeStage() {
  for (int n = 0; n < kMaxStages; ++n) {
    const std::string path = StagePath(target_, n);
    const absl::Status made = fs_.MakeDirectory(path);
    if (made.ok()) {
      path_ = path;
      return absl::OkStatus();
    }
    if (GetErrorKind(made) != ErrorKind::kExists) {
      return made;
    }
  }
  return MakeError(ErrorKind::kExists, absl::StrCat("\"", StagePath(target_, 0), "\" and ", kMaxStages - 1,
                                                    " more left-over directories cannot be removed"));
}

absl::Status StagedDirectory::CheckExchange() {
  const std::string probe = absl::StrCat(path_, "0");  // a stage name, so that a left-over is found
  WAYPOINT_RETURN_IF_ERROR(fs_.MakeDirectory(probe));
  const absl::Status exchanged = fs_.Exchange(probe, path_);
  WAYPOINT_RETURN_IF_ERROR(fs_.RemoveDirectory(probe));
  return GetErrorKind(exchanged) == ErrorKind::kUnsupported ? NoExchangeError(exchanged, target_) : exchanged;
}

absl::Status StagedDirectory::Sync() {
  WAYPOINT_RETURN_IF_ERROR(SyncTree(fs_, path_));
  synced_ = true;
  return absl::OkStatus();
}

absl::Status StagedDirectory::MoveAside(const std::string& directory) {
  for (int n = 1; n < kMaxStages; ++n) {
    const std::string aside = absl::StrCat(target_, ".replaced-", n);
    WAYPOINT_ASSIGN_OR_RETURN(const bool taken, Exists(fs_, aside));
    if (!taken) {
      WAYPOINT_RETURN_IF_ERROR(fs_.Rename(directory, aside));
      moved_aside_ = aside;
      return absl::OkStatus();
    }
  }
  return MakeError(ErrorKind::kExists, absl::StrCat("\"", target_, ".replaced-1\" and ", kMaxStages - 2,
                                                    " more are in the way of what is not deleted"));
}

absl::Status StagedDirectory::Replace() {
  if (options_.may_delete && !options_.may_delete(target_)) {
    // Two steps: exchanged, it would lie under a stage's name, which the next writer removes after a crash.
    WAYPOINT_RETURN_IF_ERROR(MoveAside(target_));
    const absl::Status renamed = fs_.Rename(path_, target_);
    if (!renamed.ok()) {
      fs_.Rename(moved_aside_, target_).IgnoreError();
    }
    return renamed;
  }
  const absl::Status exchanged = fs_.Exchange(path_, target_);
  exchanged_ = exchanged.ok();
  return GetErrorKind(exchanged) == ErrorKind::kUnsupported ? NoExchangeError(exchanged, target_) : exchanged;
}

absl::Status StagedDirectory::Publish() {
  const std::string parent = DirName(target_);
  if (!synced_) {
    WAYPOINT_RETURN_IF_ERROR(Sync());
  }
  WAYPOINT_ASSIGN_OR_RETURN(const bool exists, Exists(fs_, target_));
  if (exists && !options_.overwrite) {
    return MakeError(ErrorKind::kExists, absl::StrCat("\"", target_, "\" was made by somebody else meanwhile"));
  }
  WAYPOINT_RETURN_IF_ERROR(exists ? Replace() : fs_.Rename(path_, target_));
  const absl::Status synced = fs_.SyncDirectory(parent);
  if (!synced.ok()) {
    return TakeBack(synced);
  }
  published_ = true;
  if (exchanged_) {
    // Only now is the old directory surely not the target any more.  The new one is published whatever happens here.
    if (options_.may_delete && !options_.may_delete(path_)) {
      keep_stage_ = !MoveAside(path_).ok();
    } else {
      RemoveTree(fs_, path_).IgnoreError();
    }
  }
  return absl::OkStatus();
}

absl::Status StagedDirectory::TakeBack(const absl::Status& cause) {
  keep_stage_ = true;
  absl::Status undone = exchanged_ ? fs_.Exchange(path_, target_) : fs_.Rename(target_, path_);
  if (undone.ok() && !moved_aside_.empty()) {
    undone = fs_.Rename(moved_aside_, target_);
  }
  return Annotate(cause, undone.ok() ? absl::StrCat("\"", target_, "\" is not published, and left as it was")
                                     : absl::StrCat("\"", target_, "\" is in place but perhaps not on the disk"));
}

}  // namespace waypoint
