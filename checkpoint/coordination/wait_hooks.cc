#include "checkpoint/coordination/wait_hooks.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace waypoint {
namespace {

constexpr absl::Duration kBetweenNotices = absl::Seconds(30);
constexpr size_t kSpelledOut = 10;

}  // namespace

std::string RankList(const std::vector<int>& ranks) {
  const size_t named = std::min(ranks.size(), kSpelledOut);
  return absl::StrCat("rank ", absl::StrJoin(ranks.begin(), ranks.begin() + named, ", "),
                      named < ranks.size() ? absl::StrCat(" and ", ranks.size() - named, " more") : "");
}

bool Wait::IsNoticeDue() {
  if (!hooks_.waiting || !next_notice_.passed()) {
    return false;
  }
  next_notice_ = Deadline(kBetweenNotices);
  return true;
}

}  // namespace waypoint
