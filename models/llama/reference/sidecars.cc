#include "models/llama/reference/sidecars.h"

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/format/external/hf_assets.h"

namespace waypoint::models {
namespace {

absl::Status ReadParams(FileSystem& fs, const ConfinedDirectory& files, const Limits& limits, Sidecars* sidecars) {
  if (!files.Has(kParamsName)) {
    return absl::OkStatus();
  }
  WAYPOINT_ASSIGN_OR_RETURN(const std::string path, files.Resolve(kParamsName));
  WAYPOINT_ASSIGN_OR_RETURN(sidecars->params_text, ReadSmallFile(fs, path, limits.json_file_bytes, "json_file_bytes"));
  const absl::string_view text = absl::StripLeadingAsciiWhitespace(sidecars->params_text);
  const std::string shown = QuotedPath(JoinPath(files.path(), kParamsName));
  if (absl::StartsWith(text, "<")) {
    return MakeError(ErrorKind::kJson,
                     absl::StrCat(shown, " is a web page and no JSON: its download failed; get it again"));
  }
  WAYPOINT_ASSIGN_OR_RETURN(sidecars->params, ParseJson(sidecars->params_text, shown, limits));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Sidecars> ReadSidecars(FileSystem& fs, const ConfinedDirectory& files,
                                      const std::function<bool(absl::string_view name)>& is_weights,
                                      const Limits& limits) {
  Sidecars sidecars;
  WAYPOINT_RETURN_IF_ERROR(ReadParams(fs, files, limits, &sidecars));
  std::vector<std::string> left_behind;
  if (files.Has(kChecklistName)) {
    sidecars.notes.push_back(absl::StrCat("left ", kChecklistName, " behind: its checksums are of these files"));
  }
  const auto is_known = [&is_weights](absl::string_view name) {
    return is_weights(name) || name == kParamsName || name == kChecklistName;
  };
  WAYPOINT_ASSIGN_OR_RETURN(sidecars.assets, ReadHfAssets(fs, files, is_known, limits, &left_behind));
  const auto quoted = [](std::string* out, const std::string& name) { out->append(Quoted(name)); };
  if (!left_behind.empty()) {
    sidecars.notes.push_back(
        absl::StrCat("left behind, not known to belong to a model: ", absl::StrJoin(left_behind, ", ", quoted)));
  }
  return sidecars;
}

bool MakesSidecar(const DirectoryEntry& entry) {
  if (entry.type == FileType::kDirectory) {
    return entry.name == kTemplateDirectory;
  }
  return entry.name == kParamsName || entry.name == kChecklistName || IsWrittenHfAsset(entry.name);
}

}  // namespace waypoint::models
