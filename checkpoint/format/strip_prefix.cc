#include "checkpoint/format/strip_prefix.h"

#include <map>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/json.h"

namespace waypoint {

absl::Status PrefixStripper::Apply(absl::Span<std::string* const> names) {
  if (prefixes_.empty()) {
    return absl::OkStatus();
  }
  std::vector<std::string> before;
  for (std::string* const name : names) {
    before.push_back(*name);
    for (size_t i = 0; i < prefixes_.size(); ++i) {
      if (prefixes_[i].empty()) {
        return MakeError(ErrorKind::kRequest, "a prefix to strip is empty");
      }
      if (absl::StartsWith(*name, prefixes_[i])) {
        name->erase(0, prefixes_[i].size());
        ++taken_[i];
      }
    }
    if (name->empty()) {
      return MakeError(ErrorKind::kRequest,
                       absl::StrCat("nothing is left of tensor name ", Quoted(before.back()), " without its prefix"));
    }
    if (example_.empty()) {
      example_ = *name;
    }
  }
  absl::flat_hash_map<absl::string_view, size_t> seen;
  for (size_t i = 0; i < names.size(); ++i) {
    const auto [other, inserted] = seen.emplace(*names[i], i);
    if (!inserted) {
      return MakeError(ErrorKind::kRequest,
                       absl::StrCat("without prefixes, ", Quoted(before[other->second]), " and ", Quoted(before[i]),
                                    " are both ", Quoted(*names[i]), "; strip less"));
    }
  }
  return absl::OkStatus();
}

absl::Status PrefixStripper::Finish() const {
  for (size_t i = 0; i < prefixes_.size(); ++i) {
    if (taken_[i] == 0) {
      return MakeError(ErrorKind::kRequest,
                       absl::StrCat("no tensor name begins with ", Quoted(prefixes_[i]), ", which is to be stripped",
                                    example_.empty() ? "" : absl::StrCat("; there is ", Quoted(example_))));
    }
  }
  return absl::OkStatus();
}

absl::Status RefuseStripPrefixes(const std::vector<std::string>& prefixes, absl::string_view format) {
  return prefixes.empty()
             ? absl::OkStatus()
             : MakeError(ErrorKind::kRequest, absl::StrCat("a prefix to strip is no option for format \"", format,
                                                           "\", whose names have none; leave it out"));
}

std::string StripRemedy(const std::vector<absl::string_view>& wanted, const std::vector<absl::string_view>& present) {
  const absl::flat_hash_set<absl::string_view> names(wanted.begin(), wanted.end());
  std::map<absl::string_view, int64_t> fitting;  // by prefix
  for (const absl::string_view name : present) {
    if (names.contains(name)) {
      continue;
    }
    for (size_t dot = name.find('.'); dot != name.npos; dot = name.find('.', dot + 1)) {
      if (names.contains(name.substr(dot + 1))) {
        ++fitting[name.substr(0, dot + 1)];
        break;
      }
    }
  }
  const std::pair<const absl::string_view, int64_t>* best = nullptr;
  for (const auto& prefix : fitting) {
    if (best == nullptr || prefix.second > best->second) {
      best = &prefix;
    }
  }
  return best == nullptr ? ""
                         : absl::StrCat("; ", best->second, best->second == 1 ? " name fits" : " names fit",
                                        " without the ", "beginning that a wrapper gave them: --strip-prefix ",
                                        Quoted(best->first), " (of a trainer: pretrained.strip_prefix) takes it off");
}

absl::Status WithRemedy(const absl::Status& status, absl::string_view remedy) {
  const ErrorKind kind = GetErrorKind(status);
  return remedy.empty() || (kind != ErrorKind::kMissing && kind != ErrorKind::kExtra)
             ? status
             : MakeError(kind, absl::StrCat(status.message(), remedy));
}

}  // namespace waypoint
