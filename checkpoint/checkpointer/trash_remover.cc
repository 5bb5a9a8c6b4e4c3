#include "checkpoint/checkpointer/trash_remover.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/catch_allocation.h"
#include "checkpoint/base/start_thread.h"

namespace waypoint {

TrashRemover::~TrashRemover() { Finish(); }

void TrashRemover::Begin(std::vector<std::string> paths) {
  if (paths.empty()) {
    return;
  }
  if (thread_.joinable()) {
    thread_.join();
  }
  const auto remove = [this, paths = std::move(paths)] {
    for (const std::string& path : paths) {
      // What stays is found again at the next save.
      CatchAllocation("the removal of what is left over", "", [&] {
        RemoveLeftOver(fs_, path, &problems_);
        return absl::OkStatus();
      }).IgnoreError();
    }
  };
  absl::StatusOr<std::thread> thread = StartThread(remove);
  if (thread.ok()) {
    thread_ = *std::move(thread);
  } else {
    remove();
  }
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
