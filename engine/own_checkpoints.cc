#include "engine/own_checkpoints.h"

#include <algorithm>
#include <functional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/list_error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/checkpointer/checkpointer.h"
#include "checkpoint/coordination/coordinator.h"
#include "checkpoint/format/asset_copy.h"
#include "engine/damage.h"
#include "engine/run_history.h"

namespace waypoint::engine {
namespace {

// What a run looks at together: rank 0's answer counts for all.
class Together {
 public:
  Together(const JobRanks& ranks, const TrainConfig& config)
      : ranks_(ranks.coordinator == nullptr ? alone_ : *ranks.coordinator), timeout_(CheckpointTimeout(config)) {}

  int rank() const { return ranks_.rank(); }

  absl::StatusOr<std::string> AskFirst(absl::string_view name,
                                       const std::function<absl::StatusOr<std::string>()>& find) {
    WAYPOINT_ASSIGN_OR_RETURN(
        const std::vector<std::string> answers,
        ranks_.AllGatherIfOk(name, rank() == 0 ? find() : absl::StatusOr<std::string>(std::string()), timeout_));
    return answers[0];
  }

  absl::StatusOr<std::vector<std::string>> Vote(absl::string_view name, const std::string& mine) {
    return ranks_.AllGather(name, mine, timeout_);
  }

 private:
  LocalCoordinator alone_;
  Coordinator& ranks_;
  const absl::Duration timeout_;
};

// The paths of the run's checkpoints, the newest first.
absl::StatusOr<std::vector<std::string>> FindOwn(FileSystem& fs, const TrainConfig& config, Together& ranks,
                                                 std::vector<std::string>* notes) {
  const std::string directory = CheckpointDirectory(config);
  const auto find = [&]() -> absl::StatusOr<std::string> {
    std::vector<PassedOver> passed_over;
    WAYPOINT_ASSIGN_OR_RETURN(const std::vector<CheckpointRef> found, CheckpointRoot(fs, directory).List(&passed_over));
    std::vector<std::string> names;
    for (auto ref = found.rbegin(); ref != found.rend(); ++ref) {
      names.push_back(BaseName(ref->path));
    }
    for (const PassedOver& none : passed_over) {
      const bool newer = found.empty() || std::tie(none.checkpoint.step, none.checkpoint.attempt) >
                                              std::tie(found.back().step, found.back().attempt);
      if (newer && config.resume().on_damage() == ResumePolicy::STOP) {
        return MakeError(ErrorKind::kMissing,
                         absl::StrCat(none.why,
                                      "; resume.on_damage is STOP: move it away, or let FALL_BACK pass it "
                                      "over"));
      }
      notes->push_back(none.why);
    }
    return absl::StrJoin(names, "/");
  };
  WAYPOINT_ASSIGN_OR_RETURN(const std::string names, ranks.AskFirst("newest checkpoint", find));
  std::vector<std::string> paths;
  for (const absl::string_view name : absl::StrSplit(names, '/', absl::SkipEmpty())) {
    paths.push_back(JoinPath(directory, name));
  }
  return paths;
}

// `first`: rank 0, which copies the assets into every later save and export.
absl::Status OpenOwn(FileSystem& fs, const std::string& path, bool first, Start& start) {
  start.kind = StartKind::kResume;
  start.path = path;
  WAYPOINT_ASSIGN_OR_RETURN(CheckpointFormat * format, DetectFormat(fs, path));
  WAYPOINT_ASSIGN_OR_RETURN(start.checkpoint, format->Open(fs, path, {}));
  return first ? CheckAssets(fs, start.checkpoint->assets) : absl::OkStatus();
}

}  // namespace

absl::Status OpenNewest(FileSystem& fs, const TrainConfig& own, const JobRanks& job, Start& start) {
  Together ranks(job, own);
  WAYPOINT_ASSIGN_OR_RETURN(const std::vector<std::string> paths, FindOwn(fs, own, ranks, &start.notes));
  for (size_t i = 0; i < paths.size(); ++i) {
    const std::string& path = paths[i];
    const auto known = [&path](const DamagedCheckpoint& damaged) { return damaged.path == path; };
    if (std::any_of(start.damaged.begin(), start.damaged.end(), known)) {
      continue;
    }
    Start opened;
    absl::Status status = OpenOwn(fs, path, ranks.rank() == 0, opened);
    WAYPOINT_ASSIGN_OR_RETURN(const std::vector<std::string> votes,
                              ranks.Vote("checkpoint opened", DamageVote(status, IsDamageOfOpen(status))));
    const absl::optional<absl::Status> damage = DamageIn(votes, ranks.rank(), status);
    const std::string previous = i + 1 < paths.size() ? paths[i + 1] : "";
    if (damage.has_value() && own.resume().on_damage() != ResumePolicy::STOP) {
      start.damaged.push_back({path, *damage});
      continue;
    }
    if (damage.has_value()) {
      status = AdviseOnDamage(*damage, path, previous);
    }
    WAYPOINT_RETURN_IF_ERROR(Annotate(status, absl::StrCat("resume from \"", path, "\"")));
    opened.notes = std::move(start.notes);
    opened.damaged = std::move(start.damaged);
    opened.previous = previous;
    start = std::move(opened);
    return absl::OkStatus();
  }
  return absl::OkStatus();
}

absl::Status CheckHistory(FileSystem& fs, const TrainConfig& own, const JobRanks& job, Start& start) {
  Together ranks(job, own);
  if (start.kind == StartKind::kResume) {
    const int64_t step = start.checkpoint->metadata.training().step();
    const auto look = [&]() -> absl::StatusOr<std::string> {
      WAYPOINT_ASSIGN_OR_RETURN(const MetricsHistory history, MetricsLog::Look(MetricsPath(own.output())));
      if (history.lines > 0 && history.last_step < step) {
        start.notes.push_back(absl::StrCat("\"", MetricsPath(own.output()), "\" ends at step ", history.last_step,
                                           ", the run continues from step ", step, ": what is between is missing"));
      }
      return std::string();
    };
    return ranks.AskFirst("history of the run", look).status();
  }
  if (!start.damaged.empty() && !own.start_over()) {
    const DamagedCheckpoint& newest = start.damaged.front();
    std::vector<std::string> others;
    for (size_t i = 1; i < start.damaged.size(); ++i) {
      others.push_back(DamageText(start.damaged[i]));
    }
    return MakeListError(
        GetCause(newest.why),
        absl::StrCat("no checkpoint of the run is whole: resume from \"", newest.path, "\": ", newest.why.message()),
        others, "repair one, or set start_over: true to begin anew; they are renamed then");
  }
  const auto find = [&]() -> absl::StatusOr<std::string> {
    WAYPOINT_ASSIGN_OR_RETURN(const RunHistory history, FindRunHistory(fs, own.output()));
    if (history.empty()) {
      return std::string();
    }
    if (!history.lost()) {
      start.notes.push_back(absl::StrCat("an earlier run in \"", own.output(), "\" left ", history.Text(),
                                         " and was ended before its first checkpoint; the run begins anew"));
      return std::string();
    }
    if (!own.start_over()) {
      return MakeError(
          ErrorKind::kExists,
          absl::StrCat("\"", own.output(), "\" holds the history of a run (", history.Text(), "), and \"",
                       CheckpointDirectory(own),
                       "\" no whole checkpoint to continue it from; bring its checkpoints "
                       "back (is a disk not mounted?), choose another `output`, or set start_over: true to begin "
                       "anew beside what is there"));
    }
    start.notes.push_back(absl::StrCat("start_over: the run begins anew in \"", own.output(), "\", which holds ",
                                       history.Text(),
                                       " of an earlier one: exports and renamed checkpoints stay, its "
                                       "metrics.jsonl gets another name"));
    return std::string("over");
  };
  WAYPOINT_ASSIGN_OR_RETURN(const std::string answer, ranks.AskFirst("history of the output", find));
  start.begins_over = !answer.empty();
  return absl::OkStatus();
}

}  // namespace waypoint::engine
