#include <algorithm>
#include <memory>
#include <set>
#include <tuple>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "checkpoint/base/catch_allocation.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/registry.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/checkpointer/checkpointer.h"
#include "checkpoint/coordination/coordinator.h"
#include "checkpoint/storage/staged_directory.h"

namespace waypoint {
namespace {

constexpr char kRemedy[] = "lower the bytes in flight, or what else the process holds";
constexpr char kStepPrefix[] = "step-";
constexpr char kTrashPrefix[] = ".trash-";
constexpr char kLockName[] = ".lock";
constexpr char kDamagedSuffix[] = ".damaged";

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

// Names the step, so that ranks that come with states of different steps are refused here.
std::string FirstMeeting(const CheckpointMetadata& metadata) {
  return absl::StrCat("directory of step ", metadata.training().step());
}

// What a checkpoint says of itself.  An error where it cannot be opened: Open looks at every file's size, so that one
// that lost a file is no save to count on.
absl::StatusOr<TrainingState> ReadTraining(FileSystem& fs, const std::string& path) {
  WAYPOINT_ASSIGN_OR_RETURN(CheckpointFormat * format, DetectFormat(fs, path));
  LoadOptions load;
  // Exports carry what the run accepted when it began.
  load.carry_unknown = true;
  WAYPOINT_ASSIGN_OR_RETURN(const OpenedCheckpoint opened, format->Open(fs, path, load));
  return opened.metadata.training();
}

// Out of sight in one step, so that a crash leaves no half checkpoint under a good name.  Returns where it is now.
absl::StatusOr<std::string> MoveToTrash(FileSystem& fs, const std::string& root, const std::string& path) {
  std::string trash = JoinPath(root, absl::StrCat(kTrashPrefix, BaseName(path)));
  WAYPOINT_RETURN_IF_ERROR(fs.Rename(path, trash));
  WAYPOINT_RETURN_IF_ERROR(fs.SyncDirectory(root));
  return trash;
}

// Not there, half there, or of another kind is no reason to doubt the rest; a disk that does not answer is, or memory
// that is short.
bool IsReadFailure(const absl::Status& status) {
  const ErrorKind kind = GetErrorKind(status);
  return (kind == ErrorKind::kIo && !absl::IsNotFound(status)) || kind == ErrorKind::kNoMemory;
}

// Taken for a root without checkpoints, a disk that is not mounted would make a run begin anew.
absl::Status CheckNoDanglingLink(FileSystem& fs, const std::string& path) {
  const auto siblings = fs.List(DirName(path));
  if (!siblings.ok()) {
    return absl::OkStatus();  // whoever saves here will learn why
  }
  for (const DirectoryEntry& entry : *siblings) {
    if (entry.name == BaseName(path) && entry.type == FileType::kSymlink) {
      return MakeError(ErrorKind::kIo, absl::StrCat("\"", path,
                                                    "\" is a link to nothing: what it leads to may not be "
                                                    "mounted; mount it, or remove the link"));
    }
  }
  return absl::OkStatus();
}

// Empty: it is one, sealed.  Else what speaks against what has its name; an error where nobody can tell.
absl::StatusOr<std::string> WhyNoCheckpoint(FileSystem& fs, const std::string& path, FileType type) {
  if (type == FileType::kSymlink) {
    const auto target = fs.Stat(path);
    if (absl::IsNotFound(target.status())) {
      return std::string("is a link to nothing and does not count; what it leads to may not be mounted");
    }
    WAYPOINT_RETURN_IF_ERROR(target.status());
    type = target->type;
  }
  if (type != FileType::kDirectory) {
    return std::string("is no directory and does not count");
  }
  absl::Status unread;
  absl::Status unsealed;
  for (const std::string& name : Registry<CheckpointFormat>::Global().Names()) {
    const auto fits = Registry<CheckpointFormat>::Global().Find(name)->Probe(fs, path);
    if (fits.ok() && *fits) {
      return std::string();
    }
    if (IsReadFailure(fits.status())) {
      unread.Update(fits.status());
    } else if (GetErrorKind(fits.status()) == ErrorKind::kTruncated) {
      unsealed.Update(fits.status());
    }
  }
  // Passed over, it would make an older checkpoint the newest.
  WAYPOINT_RETURN_IF_ERROR(Annotate(unread, absl::StrCat("\"", path, "\" may be a checkpoint")));
  return unsealed.ok() ? std::string("holds no sealed checkpoint and does not count")
                       : absl::StrCat("is not sealed and does not count: ", unsealed.message());
}

}  // namespace

absl::optional<CheckpointRef> CheckpointRefOf(const std::string& path) {
  CheckpointRef ref;
  ref.path = path;
  return ParseDirectoryName(BaseName(path), &ref) ? ref : absl::optional<CheckpointRef>();
}

absl::StatusOr<std::vector<CheckpointRef>> CheckpointRoot::List(std::vector<PassedOver>* passed_over) {
  std::vector<CheckpointRef> found;
  WAYPOINT_ASSIGN_OR_RETURN(const bool exists, Exists(fs_, path_));
  if (!exists) {
    WAYPOINT_RETURN_IF_ERROR(CheckNoDanglingLink(fs_, path_));
    return found;
  }
  WAYPOINT_ASSIGN_OR_RETURN(const std::vector<DirectoryEntry> entries, fs_.List(path_));
  for (const DirectoryEntry& entry : entries) {
    CheckpointRef ref;
    if (!ParseDirectoryName(entry.name, &ref)) {
      continue;
    }
    ref.path = JoinPath(path_, entry.name);
    // Only whole directories are ever published; the probe keeps out what somebody else put there.
    WAYPOINT_ASSIGN_OR_RETURN(const std::string why, WhyNoCheckpoint(fs_, ref.path, entry.type));
    if (why.empty()) {
      found.push_back(ref);
    } else if (passed_over != nullptr) {
      passed_over->push_back({ref, absl::StrCat("\"", ref.path, "\" ", why)});
    }
  }
  std::sort(found.begin(), found.end(), [](const CheckpointRef& a, const CheckpointRef& b) {
    return std::tie(a.step, a.attempt) < std::tie(b.step, b.attempt);
  });
  return found;
}

absl::StatusOr<absl::optional<CheckpointRef>> CheckpointRoot::Latest(std::vector<PassedOver>* passed_over) {
  WAYPOINT_ASSIGN_OR_RETURN(std::vector<CheckpointRef> found, List(passed_over));
  if (found.empty()) {
    return absl::optional<CheckpointRef>();
  }
  return absl::optional<CheckpointRef>(std::move(found.back()));
}

absl::StatusOr<std::string> CheckpointRoot::SetAside(const std::string& path) {
  const std::string first = absl::StrCat(path, kDamagedSuffix);
  std::string aside = first;
  WAYPOINT_ASSIGN_OR_RETURN(const std::vector<DirectoryEntry> entries, fs_.List(path_));
  const auto taken = [&entries](const std::string& name) {
    return std::any_of(entries.begin(), entries.end(), [&name](const DirectoryEntry& e) { return e.name == name; });
  };
  for (int64_t n = 2; taken(BaseName(aside)); ++n) {
    aside = absl::StrCat(first, "-", n);
  }
  WAYPOINT_RETURN_IF_ERROR(fs_.Rename(path, aside));
  WAYPOINT_RETURN_IF_ERROR(fs_.SyncDirectory(path_));
  return aside;
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
  // The next attempt after whatever is there, complete or not.  A name that retention removed may come again.
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

absl::Status CheckpointRoot::GiveUp(const CheckpointerOptions& options, const CheckpointMetadata& metadata,
                                    const absl::Status& why) {
  LocalCoordinator alone;
  Coordinator& ranks = options.save.coordinator == nullptr ? alone : *options.save.coordinator;
  return ranks.AllGatherIfOk(FirstMeeting(metadata), why, options.save.coordination_timeout).status();
}

absl::StatusOr<SaveReport> CheckpointRoot::Save(const CheckpointerOptions& options, const CheckpointMetadata& metadata,
                                                TensorSource& state, const std::vector<Asset>& assets) {
  return CatchAllocation("a save", kRemedy, [&] { return SaveTogether(options, metadata, state, assets); });
}

absl::StatusOr<SaveReport> CheckpointRoot::SaveTogether(const CheckpointerOptions& options,
                                                        const CheckpointMetadata& metadata, TensorSource& state,
                                                        const std::vector<Asset>& assets) {
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
  WAYPOINT_ASSIGN_OR_RETURN(
      const std::vector<std::string> names,
      ranks.AllGatherIfOk(FirstMeeting(metadata), CatchAllocation("a look at the run", kRemedy, prepare), timeout));
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
  const absl::Status applied = CatchAllocation("a look at older checkpoints", kRemedy, [&] {
    if (first) {
      ApplyRetention(options.retention, report);
    }
    return absl::OkStatus();
  });
  WAYPOINT_RETURN_IF_ERROR(ranks.Agree("retention", applied, timeout));
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
  bool removed = false;
  std::set<std::string> staged;
  for (const DirectoryEntry& entry : *entries) {
    CheckpointRef ref;
    if (absl::StartsWith(entry.name, kTrashPrefix)) {
      RemoveLeftOver(fs_, JoinPath(path_, entry.name), &report.warnings);
      removed = true;
    } else if (std::string target = StagedTargetName(entry.name); ParseDirectoryName(target, &ref)) {
      staged.insert(std::move(target));
    }
  }
  for (const std::string& target : staged) {
    const absl::Status status = RemoveStaleStages(fs_, JoinPath(path_, target));
    // Locked: somebody writes it without the root's lock, as an export into a directory of that name does.
    if (!status.ok() && GetErrorKind(status) != ErrorKind::kLocked) {
      report.warnings.push_back(absl::StrCat("left-over stage of \"", target, "\" stays: ", status.message()));
    }
  }
  if (removed) {
    if (const absl::Status synced = fs_.SyncDirectory(path_); !synced.ok()) {
      report.warnings.push_back(absl::StrCat("removals may come back after a power loss: ", synced.message()));
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
  std::vector<std::string> paths;  // of the candidates
  for (const CheckpointRef& ref : *all) {
    RetentionCandidate candidate;
    candidate.step = ref.step;
    // A run that was taken back to an earlier step saves below the newest one: that is no reason to lose the save.
    candidate.stays = ref.path == report.checkpoint.path;
    // Of those that stay for ever, nobody asks more.
    if (retention.keep_best > 0 || (!IsKeptForEver(retention, ref.step) && !candidate.stays)) {
      const auto training = ReadTraining(fs_, ref.path);
      if (!training.ok()) {
        // Counted, it would push out one that can be restored; deleted, it could not be repaired.
        report.warnings.push_back(
            absl::StrCat("kept \"", ref.path, "\", which cannot be opened: ", training.status().message()));
        continue;
      }
      if (training->has_scheduled()) {
        candidate.scheduled = training->scheduled();
      }
      const auto metric = training->metrics().find(retention.best_metric);
      if (metric != training->metrics().end()) {
        candidate.metric = metric->second;
      }
    }
    candidates.push_back(candidate);
    paths.push_back(ref.path);
  }
  std::vector<std::string> trash;
  for (const size_t index : ChooseDeletions(retention, candidates)) {
    const std::string& path = paths[index];
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
