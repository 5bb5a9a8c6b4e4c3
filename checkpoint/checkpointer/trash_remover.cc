#include "checkpoint/checkpointer/trash_remover.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace waypoint {

TrashRemover::~TrashRemover() { Finish(); }

void TrashRemover::Begin(std::vector<std::string> paths) {
  if (paths.empty()) {
    return;
  }
  if (thread_.joinable()) {
    thread_.join();
  }
  thread_ = std::thread([this, paths = std::move(paths)] {
    for (const std::string& path : paths) {
      RemoveLeftOver(fs_, path, &problems_);
    }
  });
}

std::vector<std::string> TrashRemover::Finish() {
  if (thread_.joinable()) {
    thread_.join();
  }
  return std::exchange(problems_, {});
}

void RemoveLeftOver(FileSystem& fs, const std::string& path, std::vector<std::string>* warnings) {
  const absl::Status removed = RemoveTree(fs, path);
  // Gone already: another job's save cleans up as well.
  if (!removed.ok() && !absl::IsNotFound(removed)) {
    warnings->push_back(absl::StrCat("left-over \"", path, "\" stays: ", removed.message()));
  }
}

}  // namespace waypoint
