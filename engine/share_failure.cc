#include "engine/share_failure.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/list_error.h"

namespace waypoint::engine {
namespace {

// What a rank's failure tells about its cause, the least first.  It is sent, as a digit.
enum class Knows { kNothing, kThatOthersAreGone, kWhoFailed, kCause };

// `gone`: what failed was only that others were gone in the middle of a step.
Knows WhatIsKnown(const absl::Status& status, bool gone) {
  if (status.ok()) {
    return Knows::kNothing;
  }
  if (GetErrorKind(status) != ErrorKind::kRank) {
    return Knows::kCause;
  }
  return gone ? Knows::kThatOthersAreGone : Knows::kWhoFailed;
}

}  // namespace

absl::Status ShareFailure(Coordinator& ranks, absl::string_view name, const absl::Status& mine, bool gone,
                          absl::Duration timeout) {
  const Knows known = WhatIsKnown(mine, gone);
  const std::string text = known == Knows::kCause ? ErrorText(mine) : std::string(mine.message());
  const auto words = ranks.AllGather(name, absl::StrCat(static_cast<int>(known), text), timeout);
  if (known == Knows::kCause) {
    return mine;
  }
  if (!words.ok()) {
    return mine.ok()
               ? words.status()
               : MakeQuotingError(ErrorKind::kRank, absl::StrCat(mine.message(), "; then: ", words.status().message()));
  }
  const auto best = std::max_element(words->begin(), words->end(), [](const std::string& a, const std::string& b) {
    return a.substr(0, 1) < b.substr(0, 1);  // the first of equals is the largest
  });
  const auto most = static_cast<Knows>((*best)[0] - '0');
  if (most <= known) {
    return mine;
  }
  return most == Knows::kCause ? RankError(absl::StrCat("rank ", best - words->begin(), " failed"), best->substr(1))
                               : MakeQuotingError(ErrorKind::kRank, best->substr(1));
}

}  // namespace waypoint::engine
