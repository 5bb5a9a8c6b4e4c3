#include "checkpoint/format/carried_keys.h"

#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/json.h"
#include "checkpoint/base/registry.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/convert/config/json_path.h"

namespace waypoint {
namespace {

using Texts = std::map<std::string, std::string>;

// Null: the file is not there.
absl::StatusOr<Json> ParseConfig(const Texts& texts, const std::string& file) {
  const auto text = texts.find(file);
  return text == texts.end() ? absl::StatusOr<Json>(Json()) : ParseJson(text->second, file, Limits());
}

// Is the key in what is written?  A harmless one may have another value there: the format knows what it means.
bool IsKept(const CarriedKey& key, const Json& value, const Json& written) {
  const Json* there = FindJson(written, key.path);
  return there != nullptr && !there->is_null() && (!key.unknown() || *there == value);
}

std::string KeyText(const CarriedKey& key, const Json& value) {
  return absl::StrCat(Quoted(JsonPathText(key.path)), " = ", JsonText(value));
}

struct LostKeys {
  std::vector<std::string> unknown;
  // By reason.
  std::map<std::string, std::vector<std::string>> harmless;
};

absl::StatusOr<LostKeys> FindLostKeys(const std::map<std::string, std::vector<CarriedKey>>& carried,
                                      const Texts& originals, const Texts& written) {
  LostKeys lost;
  for (const auto& [file, keys] : carried) {
    WAYPOINT_ASSIGN_OR_RETURN(const Json original, ParseConfig(originals, file));
    WAYPOINT_ASSIGN_OR_RETURN(const Json output, ParseConfig(written, file));
    for (const CarriedKey& key : keys) {
      const Json* value = FindJson(original, key.path);
      if (value == nullptr || value->is_null() || IsKept(key, *value, output)) {
        continue;
      }
      (key.unknown() ? lost.unknown : lost.harmless[key.reason]).push_back(KeyText(key, *value));
    }
  }
  return lost;
}

}  // namespace

absl::StatusOr<std::vector<std::string>> AccountForCarriedKeys(const CheckpointFormat& target,
                                                               const CheckpointMetadata& metadata,
                                                               const CheckpointWriter& writer, bool drop_unknown) {
  std::vector<std::string> notes;
  if (!target.external() || metadata.external_configs().empty()) {
    return notes;
  }
  const CheckpointFormat* const source = Registry<CheckpointFormat>::Global().Find(metadata.external_format());
  if (source == nullptr) {
    return MakeError(ErrorKind::kUnsupported,
                     absl::StrCat("the model came from a ", Quoted(metadata.external_format()),
                                  " checkpoint, a format that is not linked: nothing tells which keys of its config ",
                                  "would be lost"));
  }
  WAYPOINT_ASSIGN_OR_RETURN(const auto carried, source->FindCarriedKeys(metadata));
  const Texts originals(metadata.external_configs().begin(), metadata.external_configs().end());
  WAYPOINT_ASSIGN_OR_RETURN(const LostKeys lost, FindLostKeys(carried, originals, writer.ExternalConfigs()));

  const std::string place = absl::StrCat("a \"", target.name(), "\" checkpoint has no place for");
  if (!lost.unknown.empty()) {
    const std::string count = absl::StrCat(
        lost.unknown.size(), lost.unknown.size() == 1 ? " key" : " keys",
        " that nothing here knows, which may change what the model computes: ", absl::StrJoin(lost.unknown, ", "));
    if (!drop_unknown) {
      return MakeError(
          ErrorKind::kConfig,
          absl::StrCat(place, " ", count, "; --drop-unknown, in a training config export.drop_unknown: true, leaves ",
                       lost.unknown.size() == 1 ? "it" : "them", " out"));
    }
    notes.push_back(absl::StrCat("LOST: ", place, " ", count));
  }
  if (!lost.harmless.empty()) {
    std::vector<std::string> groups;
    for (const auto& [reason, keys] : lost.harmless) {
      groups.push_back(absl::StrCat(absl::StrJoin(keys, ", "), " (", reason, ")"));
    }
    notes.push_back(absl::StrCat("left behind what ", place, ": ", absl::StrJoin(groups, "; ")));
  }
  return notes;
}

}  // namespace waypoint
