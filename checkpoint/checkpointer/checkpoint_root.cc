#include <algorithm>
#include <memory>
#include <tuple>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/registry.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/checkpointer/checkpointer.h"
#include "checkpoint/coordination/coordinator.h"

namespace waypoint {
namespace {

constexpr char kStepPrefix[] = "step-";
constexpr char kTrashPrefix[] = ".trash-";

// "step-00000010" or "step-00000010.a2".
std::string DirectoryName(int64_t step, int64_t attempt) {
  return attempt == 1 ? absl::StrFormat("%s%08d", kStepPrefix, step)
                      : absl::StrFormat("%s%08d.a%d", kStepPrefix, step, attempt);
}

// The inverse; false for any other name.
bool ParseDirectoryName(absl::string_view name, CheckpointRef* ref) {
  const std::string original(name);
  if (!absl::ConsumePrefix(&name, kStepPrefix)) {
    return false;
  }
  const size_t attempt_at = name.find(".a");
  ref->attempt = 1;
  if (attempt_at != absl::string_view::npos &&
      (!absl::SimpleAtoi(name.substr(attempt_at + 2), &ref->attempt) || ref->attempt < 2)) {
    return false;
  }
  return absl::SimpleAtoi(name.substr(0, attempt_at), &ref->step) && ref->step >= 0 &&
         DirectoryName(ref->step, ref->attempt) == original;
}

// A directory that a StagedDirectory of one of our names was written in.
bool IsStage(const DirectoryEntry& entry) {
  absl::string_view name = entry.name;
  CheckpointRef ref;
  const size_t end = name.rfind(".tmp-");
  return entry.type == FileType::kDirectory && absl::ConsumePrefix(&name, ".") && end != absl::string_view::npos &&
         ParseDirectoryName(name.substr(0, end - 1), &ref);
}

}  // namespace

absl::StatusOr<std::vector<CheckpointRef>> CheckpointRoot::List() {
  std::vector<CheckpointRef> found;
  WAYPOINT_ASSIGN_OR_RETURN(const bool exists, Exists(fs_, path_));
  if (!exists) {
    return found;
  }
  WAYPOINT_ASSIGN_OR_RETURN(const std::vector<DirectoryEntry> entries, fs_.List(path_));
  for (const DirectoryEntry& entry : entries) {
    CheckpointRef ref;
    if (entry.type != FileType::kDirectory || !ParseDirectoryName(entry.name, &ref)) {
      continue;
    }
    ref.path = JoinPath(path_, entry.name);
    // Only whole directories are ever published; the probe keeps out what somebody else put there.
    for (const std::string& name : Registry<CheckpointFormat>::Global().Names()) {
      const auto fits = Registry<CheckpointFormat>::Global().Find(name)->Probe(fs_, ref.path);
      if (fits.ok() && *fits) {
        found.push_back(ref);
        break;
      }
    }
  }
  std::sort(found.begin(), found.end(), [](const CheckpointRef& a, const CheckpointRef& b) {
    return std::tie(a.step, a.attempt) < std::tie(b.step, b.attempt);
  });
  return found;
}

absl::StatusOr<absl::optional<CheckpointRef>> CheckpointRoot::Latest() {
  WAYPOINT_ASSIGN_OR_RETURN(std::vector<CheckpointRef> found, List());
  if (found.empty()) {
    return absl::optional<CheckpointRef>();
  }
  return absl::optional<CheckpointRef>(std::move(found.back()));
}

absl::StatusOr<std::string> CheckpointRoot::PrepareSave(int64_t step) {
  CheckpointRef next;
  next.step = step;
  // The next attempt after whatever is there, complete or not: names are never used twice.
  WAYPOINT_ASSIGN_OR_RETURN(const std::vector<DirectoryEntry> entries, fs_.List(path_));
  for (const DirectoryEntry& entry : entries) {
    CheckpointRef ref;
    if (ParseDirectoryName(entry.name, &ref) && ref.step == step) {
      next.attempt = std::max(next.attempt, ref.attempt + 1);
    }
    // What a killed clean-up left, and a killed save of a step that may never come again.
    if (absl::StartsWith(entry.name, kTrashPrefix) || IsStage(entry)) {
      WAYPOINT_RETURN_IF_ERROR(RemoveTree(fs_, JoinPath(path_, entry.name)));
    }
  }
  return DirectoryName(next.step, next.attempt);
}

absl::StatusOr<SaveReport> CheckpointRoot::Save(const CheckpointerOptions& options, const CheckpointMetadata& metadata,
                                                TensorSource& state, const std::vector<Asset>& assets) {
  LocalCoordinator alone;
  Coordinator& ranks = options.save.coordinator == nullptr ? alone : *options.save.coordinator;
  const absl::Duration timeout = options.save.coordination_timeout;
  const bool first = ranks.rank() == 0;
  std::unique_ptr<FileLock> lock;  // rank 0's, for the whole job
  const auto prepare = [&]() -> absl::StatusOr<std::string> {
    if (!first) {
      return std::string();
    }
    WAYPOINT_RETURN_IF_ERROR(MakeDirectories(fs_, path_));
    WAYPOINT_ASSIGN_OR_RETURN(lock, fs_.Lock(JoinPath(path_, ".lock")));
    return PrepareSave(metadata.training().step());
  };
  WAYPOINT_ASSIGN_OR_RETURN(const std::vector<std::string> names,
                            ranks.AllGatherIfOk("checkpoint directory", prepare(), timeout));
  SaveReport report;
  if (!ParseDirectoryName(names[0], &report.checkpoint)) {
    return MakeError(ErrorKind::kRank, absl::StrCat("rank 0 named the directory \"", names[0], "\""));
  }
  report.checkpoint.path = JoinPath(path_, names[0]);
  WriteOptions write;
  write.format = options.format;
  write.save = options.save;
  write.transfer = options.transfer;
  const auto stats = WriteCheckpoint(fs_, report.checkpoint.path, write, metadata, state, assets);
  if (!stats.ok()) {
    return Annotate(stats.status(), absl::StrCat("save of step ", report.checkpoint.step));
  }
  report.stats = *stats;
  absl::StatusOr<std::vector<std::string>> deleted = std::vector<std::string>();
  if (first) {
    deleted = ApplyRetention(options.retention, report.checkpoint.path);
  }
  WAYPOINT_RETURN_IF_ERROR(ranks.Agree("retention", deleted.status(), timeout));
  report.deleted = *std::move(deleted);
  return report;
}

absl::StatusOr<std::vector<std::string>> CheckpointRoot::ApplyRetention(const Retention& retention,
                                                                         const std::string& saved) {
  std::vector<std::string> deleted;
  if (retention.keep <= 0) {
    return deleted;
  }
  WAYPOINT_ASSIGN_OR_RETURN(const std::vector<CheckpointRef> all, List());
  const int64_t interval = std::max<int64_t>(retention.interval, 1);
  int64_t kept = 0;
  for (auto ref = all.rbegin(); ref != all.rend(); ++ref) {
    if (ref->step % interval != 0) {
      continue;  // a signal's
    }
    if (retention.keep_every > 0 && ref->step % (interval * retention.keep_every) == 0) {
      continue;
    }
    // A run that was taken back to an earlier step saves below the newest one: that is no reason to lose the save.
    if (++kept <= retention.keep || ref->path == saved) {
      continue;
    }
    // Taken out of sight in one step first, so that a crash leaves no half checkpoint under a good name.
    const std::string trash = JoinPath(path_, absl::StrCat(kTrashPrefix, BaseName(ref->path)));
    WAYPOINT_RETURN_IF_ERROR(fs_.Rename(ref->path, trash));
    WAYPOINT_RETURN_IF_ERROR(fs_.SyncDirectory(path_));
    WAYPOINT_RETURN_IF_ERROR(RemoveTree(fs_, trash));
    deleted.push_back(ref->path);
  }
  return deleted;
}

}  // namespace waypoint
