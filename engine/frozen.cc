#include "engine/frozen.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "checkpoint/base/error.h"
#include "checkpoint/convert/weights/weight_rules.h"
#include "models/decoder/sharding.h"

namespace waypoint::engine {
namespace {

std::vector<std::string> ParameterNames(const TrainConfig& config) {
  std::vector<std::string> names;
  for (const models::ShardedParameter& parameter : models::ShardParameters(config.model(), {})) {
    names.push_back(parameter.name);
  }
  return names;
}

// The segments of `name` that a pattern is compared with: as many as it has itself.
absl::string_view LeadingSegments(absl::string_view name, absl::string_view pattern) {
  size_t end = name.find('.');
  for (int64_t dots = std::count(pattern.begin(), pattern.end(), '.'); dots > 0 && end < name.size(); --dots) {
    end = name.find('.', end + 1);
  }
  return name.substr(0, end);
}

bool Matches(absl::string_view name, absl::string_view pattern) {
  return MatchesPattern(LeadingSegments(name, pattern), pattern);
}

std::string FirstOf(const std::vector<std::string>& names, size_t most) {
  const size_t shown = std::min(names.size(), most);
  std::string text = absl::StrJoin(names.begin(), names.begin() + shown, ", ");
  if (shown < names.size()) {
    absl::StrAppend(&text, " and ", names.size() - shown, " more");
  }
  return text;
}

std::string Count(const std::vector<std::string>& names) {
  return absl::StrCat(names.size(), names.size() == 1 ? " parameter" : " parameters");
}

}  // namespace

bool IsFrozen(const TrainConfig& config, absl::string_view parameter) {
  return std::any_of(config.frozen().begin(), config.frozen().end(),
                     [parameter](const std::string& pattern) { return Matches(parameter, pattern); });
}

absl::Status CheckFrozen(const TrainConfig& config) {
  if (config.frozen().empty()) {
    return absl::OkStatus();
  }
  const std::vector<std::string> names = ParameterNames(config);
  std::vector<std::string> unmatched;
  for (const std::string& pattern : config.frozen()) {
    if (std::none_of(names.begin(), names.end(), [&](const std::string& name) { return Matches(name, pattern); })) {
      unmatched.push_back(absl::StrCat("\"", pattern, "\""));
    }
  }
  constexpr size_t kSpelledOut = 10;
  if (!unmatched.empty()) {
    return MakeError(ErrorKind::kRequest, absl::StrCat("frozen: no parameter matches ", FirstOf(unmatched, kSpelledOut),
                                                       "; there are ", FirstOf(names, kSpelledOut)));
  }
  if (std::all_of(names.begin(), names.end(), [&](const std::string& name) { return IsFrozen(config, name); })) {
    return MakeError(ErrorKind::kRequest, absl::StrCat("frozen: all ", names.size(),
                                                       " parameters match, so that there is nothing to train; take "
                                                       "patterns out"));
  }
  return absl::OkStatus();
}

FreezingChange CompareFreezing(const TrainConfig& before, const TrainConfig& now) {
  FreezingChange change;
  for (std::string& name : ParameterNames(now)) {
    const bool was = IsFrozen(before, name);
    const bool is = IsFrozen(now, name);
    if (was != is) {
      (was ? change.thawed : change.frozen).push_back(std::move(name));
    }
  }
  return change;
}

std::vector<std::string> FreezingNotes(const FreezingChange& change) {
  constexpr size_t kSpelledOut = 3;
  std::vector<std::string> notes;
  if (!change.thawed.empty()) {
    notes.push_back(absl::StrCat(
        "frozen: ", Count(change.thawed),
        " no longer; moments begin at zero, and bias correction with them: ", FirstOf(change.thawed, kSpelledOut)));
  }
  if (!change.frozen.empty()) {
    notes.push_back(absl::StrCat(
        "frozen: ", Count(change.frozen),
        " from here on; optimizer state stays behind in the checkpoint: ", FirstOf(change.frozen, kSpelledOut)));
  }
  return notes;
}

}  // namespace waypoint::engine
