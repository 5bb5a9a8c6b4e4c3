#include "engine/damage.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "checkpoint/base/error.h"

namespace waypoint::engine {
namespace {

// The first byte of a vote; an empty one is for a rank that read what it wanted.
constexpr char kDamage = 'D';
constexpr char kMissing = 'M';
constexpr char kOther = 'E';

}  // namespace

std::string DamageText(const DamagedCheckpoint& damaged) {
  const absl::Status& why = damaged.why;
  return absl::StrCat("checkpoint \"", damaged.path, "\" is damaged and is left aside: ",
                      GetErrorKind(why) == ErrorKind::kRank ? std::string(why.message()) : ErrorText(why));
}

bool IsDamageOfOpen(const absl::Status& status) {
  const ErrorKind kind = GetErrorKind(status);
  // Somebody's link is no accident.
  return kind != ErrorKind::kPath &&
         (absl::IsDataLoss(status) || kind == ErrorKind::kMissing || kind == ErrorKind::kExtra);
}

bool IsDamageOfTensors(const absl::Status& status) {
  // The manifest is whole: what it says of types and of the training state was meant.
  const ErrorKind kind = GetErrorKind(status);
  return absl::IsDataLoss(status) && kind != ErrorKind::kDType && kind != ErrorKind::kSchema &&
         kind != ErrorKind::kPath;
}

std::string DamageVote(const absl::Status& status, bool damage) {
  if (status.ok()) {
    return "";
  }
  const char vote = !damage ? kOther : GetErrorKind(status) == ErrorKind::kMissing ? kMissing : kDamage;
  return absl::StrCat(absl::string_view(&vote, 1), ErrorText(status));
}

absl::optional<absl::Status> DamageIn(const std::vector<std::string>& votes, int rank, const absl::Status& mine) {
  absl::optional<absl::Status> found;
  for (size_t voter = 0; voter < votes.size(); ++voter) {
    const char vote = votes[voter].empty() ? '\0' : votes[voter][0];
    // A file that rank 0 sees is there: another host's view of it may be late.
    if (vote == kOther || (vote == kMissing && !absl::StartsWith(votes[0], absl::string_view(&kMissing, 1)))) {
      return absl::nullopt;
    }
    if (vote != '\0' && !found.has_value()) {
      found = static_cast<int>(voter) == rank ? mine : RankError(absl::StrCat("rank ", voter), votes[voter].substr(1));
    }
  }
  return found;
}

absl::Status AdviseOnDamage(const absl::Status& status, const std::string& path, const std::string& previous) {
  const std::string advice = absl::StrCat(
      "; if it cannot be repaired, ",
      previous.empty()
          ? absl::StrCat("move \"", path, "\" away and set start_over: true to begin anew: it is the only one")
          : absl::StrCat("move \"", path, "\" away to continue from the one before, \"", previous,
                         "\", or let resume.on_damage: FALL_BACK do so"));
  return MakeError(GetErrorKind(status), absl::StrCat(status.message(), advice));
}

}  // namespace waypoint::engine
