#include "checkpoint/storage/publish_order.h"

#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace waypoint {
namespace {

bool IsBelow(absl::string_view path, absl::string_view directory) {
  return path == directory || (absl::StartsWith(path, directory) && path[directory.size()] == '/');
}

// Paths that changed since their last sync; paths move with their directories.
class Unsynced {
 public:
  void Add(const std::string& path) { paths_.insert(path); }
  void Remove(const std::string& path) { paths_.erase(path); }
  // Empty when all below `directory` is synced.
  std::string FirstBelow(const std::string& directory) const {
    for (const std::string& path : paths_) {
      if (IsBelow(path, directory)) {
        return path;
      }
    }
    return "";
  }
  void Move(const std::string& a, const std::string& b, bool exchange) {
    std::set<std::string> moved;
    for (const std::string& path : paths_) {
      if (IsBelow(path, a)) {
        moved.insert(b + path.substr(a.size()));
      } else if (!IsBelow(path, b)) {
        moved.insert(path);
      } else if (exchange) {
        moved.insert(a + path.substr(b.size()));
      }
    }
    paths_ = std::move(moved);
  }

 private:
  std::set<std::string> paths_;
};

}  // namespace

absl::Status CheckPublishOrder(const std::vector<FileCall>& trace) {
  Unsynced files;
  Unsynced directories;
  std::set<std::string> parents;  // of renames, to be synced
  for (size_t i = 0; i < trace.size(); ++i) {
    const FileCall& call = trace[i];
    if (call.kind == FileCall::kWrite) {
      files.Add(call.path);  // also when it failed: part of it may be there
    }
    if (!call.ok) {
      continue;
    }
    switch (call.kind) {
      case FileCall::kWrite:
      case FileCall::kClose:
        break;
      case FileCall::kCreate:
        files.Add(call.path);
        directories.Add(DirName(call.path));
        break;
      case FileCall::kSync:
        files.Remove(call.path);
        break;
      case FileCall::kMakeDirectory:  // an empty directory has nothing to sync
      case FileCall::kLock:           // what a lock file says need not last
        directories.Add(DirName(call.path));
        break;
      case FileCall::kRemoveFile:
      case FileCall::kRemoveDirectory:
        files.Remove(call.path);
        directories.Remove(call.path);
        directories.Add(DirName(call.path));
        break;
      case FileCall::kSyncDirectory:
        directories.Remove(call.path);
        parents.erase(call.path);
        break;
      case FileCall::kRename:
      case FileCall::kExchange: {
        for (const std::string& path : {call.path, call.to}) {
          for (const std::string& unsynced : {files.FirstBelow(path), directories.FirstBelow(path)}) {
            if (!unsynced.empty()) {
              return absl::FailedPreconditionError(absl::StrCat("call ", i, " moves \"", call.path, "\" to \"", call.to,
                                                                "\" before \"", unsynced, "\" is synced"));
            }
          }
        }
        files.Move(call.path, call.to, call.kind == FileCall::kExchange);
        directories.Move(call.path, call.to, call.kind == FileCall::kExchange);
        for (const std::string& path : {call.path, call.to}) {
          directories.Add(DirName(path));
          parents.insert(DirName(path));
        }
        break;
      }
    }
  }
  if (!parents.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("\"", *parents.begin(), "\" is never synced after a rename in it"));
  }
  return absl::OkStatus();
}

}  // namespace waypoint
