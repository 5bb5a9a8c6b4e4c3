#include "models/llama/reference/checklist.h"

#include <algorithm>
#include <map>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/json.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/container/file_kind.h"
#include "checkpoint/storage/file_system.h"

namespace waypoint::models {
namespace {

constexpr size_t kDigits = 32;

// False for a line that is of none of the kinds.
bool ParseLine(absl::string_view line, ChecklistEntry* entry) {
  absl::string_view name = line;
  absl::string_view digits;
  if (absl::ConsumePrefix(&name, "MD5 (")) {
    const size_t end = name.rfind(") = ");
    if (end == name.npos) {
      return false;
    }
    digits = name.substr(end + 4);
    name = name.substr(0, end);
  } else {
    digits = line.substr(0, line.find_first_of(" \t"));
    name.remove_prefix(digits.size());
    name = absl::StripLeadingAsciiWhitespace(name);
    absl::ConsumePrefix(&name, "*");
  }
  if (name.empty() || digits.size() != kDigits ||
      !std::all_of(digits.begin(), digits.end(), [](char c) { return absl::ascii_isxdigit(c); })) {
    return false;
  }
  entry->name = BaseName(name);
  entry->md5 = absl::AsciiStrToLower(digits);
  return true;
}

}  // namespace

absl::StatusOr<std::vector<ChecklistEntry>> ParseChecklist(absl::string_view text, absl::string_view path) {
  if (const absl::string_view kind = FileKind(text); !kind.empty()) {
    return MakeError(ErrorKind::kHeader, absl::StrCat(QuotedPath(path), ": no list of checksums but ", kind));
  }
  std::vector<ChecklistEntry> entries;
  std::map<std::string, std::string> digests;
  int64_t number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line[0] == '#') {
      continue;
    }
    ChecklistEntry entry;
    if (!ParseLine(line, &entry)) {
      return MakeError(ErrorKind::kSchema, absl::StrCat(QuotedPath(path), ": line ", number, " is ", Quoted(line),
                                                        ", wanted an MD5 of 32 digits and a file name"));
    }
    const auto [known, inserted] = digests.emplace(entry.name, entry.md5);
    if (!inserted && known->second != entry.md5) {
      return MakeError(ErrorKind::kDupKey, absl::StrCat(QuotedPath(path), ": line ", number, " gives ",
                                                        Quoted(entry.name), " a second checksum"));
    }
    if (inserted) {
      entries.push_back(std::move(entry));
    }
  }
  return entries;
}

}  // namespace waypoint::models
