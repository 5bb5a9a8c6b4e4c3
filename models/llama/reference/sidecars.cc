#include "models/llama/reference/sidecars.h"

#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/container/file_kind.h"
#include "checkpoint/format/external/hf_assets.h"
#include "checkpoint/format/file_checks.h"
#include "models/llama/reference/checklist.h"

namespace waypoint::models {
namespace {

absl::Status ReadParams(FileSystem& fs, const ConfinedDirectory& files, const LoadOptions& options,
                        Sidecars* sidecars) {
  if (!files.Has(kParamsName)) {
    return absl::OkStatus();
  }
  WAYPOINT_ASSIGN_OR_RETURN(const std::string path, files.Resolve(kParamsName));
  WAYPOINT_ASSIGN_OR_RETURN(sidecars->params_text,
                            ReadSmallRealFile(fs, path, options.limits.json_file_bytes, "json_file_bytes"));
  const absl::string_view text = absl::StripLeadingAsciiWhitespace(sidecars->params_text);
  const std::string shown = QuotedPath(JoinPath(files.path(), kParamsName));
  if (absl::StartsWith(text, "<")) {
    return MakeError(ErrorKind::kJson,
                     absl::StrCat(shown, " is a web page and no JSON: its download failed; get it again"));
  }
  WAYPOINT_ASSIGN_OR_RETURN(sidecars->params, ParseJson(sidecars->params_text, shown, options.limits));
  WAYPOINT_ASSIGN_OR_RETURN(CheckpointFile file, TextFile(kParamsName, path, sidecars->params_text, options));
  sidecars->files.push_back(std::move(file));
  return absl::OkStatus();
}

bool IsChecklist(absl::string_view name) { return name == kChecklistName || name == kTokenizerChecklistName; }

absl::Status ReadChecklist(FileSystem& fs, const ConfinedDirectory& files, absl::string_view list_name,
                           const std::function<bool(absl::string_view name)>& is_weights, const Limits& limits,
                           Sidecars* sidecars) {
  if (!files.Has(list_name)) {
    return absl::OkStatus();
  }
  WAYPOINT_ASSIGN_OR_RETURN(const std::string path, files.Resolve(list_name));
  WAYPOINT_ASSIGN_OR_RETURN(const std::string text,
                            ReadSmallRealFile(fs, path, limits.json_file_bytes, "json_file_bytes"));
  const std::string shown = JoinPath(files.path(), list_name);
  WAYPOINT_ASSIGN_OR_RETURN(const std::vector<ChecklistEntry> entries, ParseChecklist(text, shown));
  std::set<std::string> names;
  for (const ChecklistEntry& entry : entries) {
    names.insert(entry.name);
    if (files.Has(entry.name)) {
      WAYPOINT_ASSIGN_OR_RETURN(std::string listed_path, files.Resolve(entry.name));
      sidecars->listed.push_back({std::move(listed_path), entry.md5, shown});
    } else if (is_weights(entry.name)) {
      return MakeError(ErrorKind::kMissing, absl::StrCat(QuotedPath(shown), " lists ", Quoted(entry.name),
                                                         ", which is not there: the model has more files than these"));
    }
  }
  for (const DirectoryEntry& entry : files.entries()) {
    if (list_name == kChecklistName && is_weights(entry.name) && names.count(entry.name) == 0) {
      sidecars->notes.push_back(absl::StrCat(list_name, " has no checksum of ", Quoted(entry.name)));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Sidecars> ReadSidecars(FileSystem& fs, const ConfinedDirectory& files,
                                      const std::function<bool(absl::string_view name)>& is_weights,
                                      const LoadOptions& options) {
  Sidecars sidecars;
  WAYPOINT_RETURN_IF_ERROR(ReadParams(fs, files, options, &sidecars));
  for (const absl::string_view list : {kChecklistName, kTokenizerChecklistName}) {
    WAYPOINT_RETURN_IF_ERROR(ReadChecklist(fs, files, list, is_weights, options.limits, &sidecars));
  }
  std::vector<std::string> left_behind;
  if (files.Has(kChecklistName)) {
    sidecars.notes.push_back(absl::StrCat("left ", kChecklistName, " behind: its checksums are of these files"));
  }
  const auto is_known = [&is_weights](absl::string_view name) {
    return is_weights(name) || name == kParamsName || IsChecklist(name);
  };
  WAYPOINT_ASSIGN_OR_RETURN(sidecars.assets, ReadHfAssets(fs, files, is_known, options.limits, &left_behind));
  const auto quoted = [](std::string* out, const std::string& name) { out->append(Quoted(name)); };
  if (!left_behind.empty()) {
    sidecars.notes.push_back(
        absl::StrCat("left behind, not known to belong to a model: ", absl::StrJoin(left_behind, ", ", quoted)));
  }
  return sidecars;
}

}  // namespace waypoint::models
