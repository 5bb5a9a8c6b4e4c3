#include "engine/share_failure.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
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

// A rank's words as they are sent: the digit, one line beside, and the text.
struct Words {
  Knows known = Knows::kNothing;
  std::string beside;
  std::string text;
};

std::string Pack(const Words& words) {
  return absl::StrCat(static_cast<int>(words.known), words.beside, "\n", words.text);
}

Words Unpack(const std::string& packed) {
  const size_t end = std::min(packed.find('\n'), packed.size());
  Words words;
  words.known = packed.empty() ? Knows::kNothing : static_cast<Knows>(packed[0] - '0');
  words.beside = packed.substr(std::min<size_t>(1, end), end - std::min<size_t>(1, end));
  words.text = packed.substr(std::min(end + 1, packed.size()));
  return words;
}

}  // namespace

absl::Status ShareFailure(Coordinator& ranks, absl::string_view name, const absl::Status& mine, bool gone,
                          absl::Duration timeout, absl::string_view beside, std::vector<std::string>* all_beside) {
  Words words;
  words.known = WhatIsKnown(mine, gone);
  words.text = words.known == Knows::kCause ? ErrorText(mine) : std::string(mine.message());
  words.beside = absl::StrReplaceAll(beside, {{"\n", " "}});
  const auto packed = ranks.AllGather(name, Pack(words), timeout);
  std::vector<Words> all;
  for (size_t rank = 0; packed.ok() && rank < packed->size(); ++rank) {
    all.push_back(Unpack((*packed)[rank]));
    if (all_beside != nullptr) {
      all_beside->push_back(all.back().beside);
    }
  }
  if (words.known == Knows::kCause) {
    return mine;
  }
  if (!packed.ok()) {
    return mine.ok() ? packed.status()
                     : MakeQuotingError(ErrorKind::kRank,
                                        absl::StrCat(mine.message(), "; then: ", packed.status().message()));
  }
  const auto best = std::max_element(all.begin(), all.end(), [](const Words& a, const Words& b) {
    return a.known < b.known;  // the first of equals is the largest
  });
  if (best->known <= words.known) {
    return mine;
  }
  return best->known == Knows::kCause ? RankError(absl::StrCat("rank ", best - all.begin(), " failed"), best->text)
                                      : MakeQuotingError(ErrorKind::kRank, best->text);
}

}  // namespace waypoint::engine
