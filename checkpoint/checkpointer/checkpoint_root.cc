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
constexpr char kLockName[] = ".lock";

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

// Empty where the checkpoint says nothing about the metric.
absl::StatusOr<absl::optional<double>> ReadMetric(FileSystem& fs, const std::string& path, const std::string& metric) {
  WAYPOINT_ASSIGN_OR_RETURN(CheckpointFormat * format, DetectFormat(fs, path));
  WAYPOINT_ASSIGN_OR_RETURN(const OpenedCheckpoint opened, format->Open(fs, path, {}));
  const auto& metrics = opened.metadata.training().metrics();
  const auto found = metrics.find(metric);
  return found == metrics.end() ? absl::optional<double>() : absl::optional<double>(found->second);
}

// Out of sight in one step, so that a crash leaves no half checkpoint under a good name.  Returns where it is now.
absl::StatusOr<std::string> MoveToTrash(FileSystem& fs, const std::string& root, const std::string& path) {
  std::string trash = JoinPath(root, absl::StrCat(kTrashPrefix, BaseName(path)));
  WAYPOINT_RETURN_IF_ERROR(fs.Rename(path, trash));
  WAYPOINT_RETURN_IF_ERROR(fs.SyncDirectory(root));
  return trash;
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

absl::StatusOr<std::unique_ptr<FileLock>> CheckpointRoot::Lock() {
  WAYPOINT_RETURN_IF_ERROR(MakeDirectories(fs_, path_));
  auto lock = fs_.Lock(JoinPath(path_, kLockName));
  if (GetErrorKind(lock.status()) == ErrorKind::kLocked) {
    return Annotate(lock.status(), absl::StrCat("another job saves to \"", path_, "\"; stop it or save elsewhere"));
  }
  return lock;
}

absl::Status CheckpointRoot::Hold() {
  if (held_ == nullptr) {
    WAYPOINT_ASSIGN_OR_RETURN(held_, Lock());
  }
  return absl::OkStatus();
}

std::vector<std::string> CheckpointRoot::Release() {
  std::vector<std::string> warnings = remover_.Finish();
  held_.reset();
  return warnings;
}

absl::StatusOr<std::string> CheckpointRoot::PrepareSave(int64_t step, SaveReport& report) {
  CheckpointRef next;
  next.step = step;
  // The next attempt after whatever is there, complete or not: names are never used twice.
  WAYPOINT_ASSIGN_OR_RETURN(const std::vector<DirectoryEntry> entries, fs_.List(path_));
  for (const DirectoryEntry& entry : entries) {
    CheckpointRef ref;
    if (ParseDirectoryName(entry.name, &ref) && ref.step == step) {
      next.attempt = std::max(next.attempt, ref.attempt + 1);
    }
  }
  RemoveTrash(report);
  return DirectoryName(next.step, next.attempt);
}

absl::StatusOr<SaveReport> CheckpointRoot::Save(const CheckpointerOptions& options, const CheckpointMetadata& metadata,
                                                TensorSource& state, const std::vector<Asset>& assets) {
  LocalCoordinator alone;
  Coordinator& ranks = options.save.coordinator == nullptr ? alone : *options.save.coordinator;
  const absl::Duration timeout = options.save.coordination_timeout;
  const bool first = ranks.rank() == 0;
  SaveReport report;
  std::unique_ptr<FileLock> lock;  // rank 0's, for the whole job
  const auto prepare = [&]() -> absl::StatusOr<std::string> {
    if (!first) {
      return std::string();
    }
    if (held_ == nullptr) {
      WAYPOINT_ASSIGN_OR_RETURN(lock, Lock());
    }
    return PrepareSave(metadata.training().step(), report);
  };
  WAYPOINT_ASSIGN_OR_RETURN(const std::vector<std::string> names,
                            ranks.AllGatherIfOk("checkpoint directory", prepare(), timeout));
  if (!ParseDirectoryName(names[0], &report.checkpoint)) {
    return MakeError(ErrorKind::kRank, absl::StrCat("rank 0 named the directory \"", names[0], "\""));
  }
  report.checkpoint.path = JoinPath(path_, names[0]);
  WriteOptions write;
  write.format = options.format;
  write.save = options.save;
  if (write.save.plan_cache == nullptr) {
    write.save.plan_cache = &plan_cache_;
  }
  write.transfer = options.transfer;
  const auto stats = WriteCheckpoint(fs_, report.checkpoint.path, write, metadata, state, assets);
  if (!stats.ok()) {
    return Annotate(stats.status(), absl::StrCat("save of step ", report.checkpoint.step));
  }
  report.stats = *stats;
  if (first) {
    ApplyRetention(options.retention, report);
  }
  WAYPOINT_RETURN_IF_ERROR(ranks.Agree("retention", absl::OkStatus(), timeout));
  return report;
}

// What a killed clean-up left, and a killed save of a step that may never come again.  It takes space and nothing else:
// no reason not to save.
void CheckpointRoot::RemoveTrash(SaveReport& report) {
  report.warnings = remover_.Finish();
  const auto entries = fs_.List(path_);
  if (!entries.ok()) {
    return;  // Save lists as well, and reports it
  }
  for (const DirectoryEntry& entry : *entries) {
    if (absl::StartsWith(entry.name, kTrashPrefix) || IsStage(entry)) {
      RemoveLeftOver(fs_, JoinPath(path_, entry.name), &report.warnings);
    }
  }
}

void CheckpointRoot::ApplyRetention(const Retention& retention, SaveReport& report) {
  if (retention.keep <= 0) {
    return;
  }
  const auto all = List();
  if (!all.ok()) {
    report.warnings.push_back(absl::StrCat("nothing old is deleted: ", all.status().message()));
    return;
  }
  std::vector<RetentionCandidate> candidates;
  for (size_t i = 0; i < all->size(); ++i) {
    candidates.push_back({(*all)[i].step});
    // A run that was taken back to an earlier step saves below the newest one: that is no reason to lose the save.
    candidates.back().stays = (*all)[i].path == report.checkpoint.path;
    if (retention.keep_best > 0) {
      const auto metric = ReadMetric(fs_, (*all)[i].path, retention.best_metric);
      if (metric.ok()) {
        candidates.back().metric = *metric;
      } else {
        // It may be the best one.
        candidates.back().stays = true;
        report.warnings.push_back(
            absl::StrCat("kept \"", (*all)[i].path, "\", whose metrics cannot be read: ", metric.status().message()));
      }
    }
  }
  std::vector<std::string> trash;
  for (const size_t index : ChooseDeletions(retention, candidates)) {
    const std::string& path = (*all)[index].path;
    absl::StatusOr<std::string> moved = MoveToTrash(fs_, path_, path);
    if (moved.ok()) {
      report.deleted.push_back(path);
      trash.push_back(*std::move(moved));
    } else {
      report.warnings.push_back(absl::StrCat("deletion of old \"", path, "\": ", moved.status().message()));
    }
  }
  remover_.Begin(std::move(trash));
  // Without the lock, the next job's files could have the same names.
  if (held_ == nullptr) {
    for (std::string& problem : remover_.Finish()) {
      report.warnings.push_back(std::move(problem));
    }
  }
}

}  // namespace waypoint
