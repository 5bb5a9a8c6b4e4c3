#include "tools/speak_once.h"

#include <cstdlib>
#include <string>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/digest.h"
#include "checkpoint/base/error.h"

namespace waypoint {

Speech WhoSpeaks(Coordinator& ranks, const absl::Status& status) {
  if (status.ok()) {
    return {};
  }
  if (std::getenv(kLauncherSpeaks) != nullptr) {
    return {true, ranks.rank() == 0};
  }
  if (GetErrorKind(status) == ErrorKind::kRank && GetCause(status) != ErrorKind::kRank) {
    return {false, false};  // the rank that it quotes speaks
  }
  const bool is_own = GetErrorKind(status) != ErrorKind::kRank && !absl::IsCancelled(status);
  const std::string text = is_own ? ErrorText(status) : "the job ended";
  Speech speech;
  speech.error = ranks.IsFirst(absl::StrCat("says-", DigestHex(Xxh3(absl::MakeConstSpan(text.data(), text.size())))));
  speech.json = speech.error && ranks.IsFirst("says-json");
  return speech;
}

}  // namespace waypoint
