#include "tools/compare_configs.h"

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "checkpoint/base/json.h"
#include "checkpoint/base/registry.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/convert/config/json_path.h"
#include "checkpoint/format/external/config_defaults.h"
#include "google/protobuf/util/message_differencer.h"
#include "models/decoder/config.pb.h"
#include "models/decoder/normal_form.h"

namespace waypoint {
namespace {

constexpr char kConfigName[] = "config.json";

std::vector<std::string> Differences(const google::protobuf::Message& a, const google::protobuf::Message& b) {
  std::string report;
  google::protobuf::util::MessageDifferencer differencer;
  differencer.ReportDifferencesToString(&report);
  differencer.Compare(a, b);
  return absl::StrSplit(report, '\n', absl::SkipEmpty());
}

// An empty object where there is none.
absl::StatusOr<Json> ConfigOf(const OpenedCheckpoint& checkpoint) {
  const auto& configs = checkpoint.metadata.external_configs();
  const auto text = configs.find(kConfigName);
  return text == configs.end() ? Json::object() : ParseJson(text->second, kConfigName, Limits());
}

// Whatever the order of keys.
bool SameValue(const Json& a, const Json& b) { return nlohmann::json(a) == nlohmann::json(b); }

std::string ValueText(const Json& config, const std::string& key) {
  const auto it = config.find(key);
  return it == config.end() ? "nothing" : JsonText(*it);
}

// Does `config` without the key, or with null, say the same as `value`?
bool Implies(const ConfigDefaults* defaults, const Json& config, const std::string& key, const Json& value) {
  const auto it = config.find(key);
  if (defaults == nullptr || (it != config.end() && !it->is_null())) {
    return false;
  }
  const absl::optional<Json> implied = defaults->Of(key, config);
  return implied.has_value() && SameValue(*implied, value);
}

}  // namespace

ConfigDifferences CompareModelConfigs(const CheckpointMetadata& a, const CheckpointMetadata& b) {
  ConfigDifferences differences;
  models::DecoderConfig first;
  models::DecoderConfig second;
  if (!a.model_config().UnpackTo(&first) || !b.model_config().UnpackTo(&second)) {
    differences.real = Differences(a.model_config(), b.model_config());
    return differences;
  }
  differences.real = Differences(models::NormalForm(first), models::NormalForm(second));
  for (std::string& line : Differences(first, second)) {
    if (std::find(differences.real.begin(), differences.real.end(), line) == differences.real.end()) {
      differences.written_out.push_back(std::move(line));
    }
  }
  return differences;
}

absl::StatusOr<ConfigDifferences> CompareConfigFiles(const std::string& format, const OpenedCheckpoint& a,
                                                     const OpenedCheckpoint& b) {
  WAYPOINT_ASSIGN_OR_RETURN(const Json first, ConfigOf(a));
  WAYPOINT_ASSIGN_OR_RETURN(const Json second, ConfigOf(b));
  const ConfigDefaults* const defaults = Registry<ConfigDefaults>::Global().Find(format);
  std::set<std::string> keys;
  for (const Json* config : {&first, &second}) {
    for (auto it = config->begin(); it != config->end(); ++it) {
      keys.insert(it.key());
    }
  }
  ConfigDifferences differences;
  for (const std::string& key : keys) {
    const bool in_first = first.contains(key);
    const bool in_second = second.contains(key);
    if (in_first && in_second && SameValue(first[key], second[key])) {
      continue;
    }
    const bool same = (in_first && Implies(defaults, second, key, first[key])) ||
                      (in_second && Implies(defaults, first, key, second[key]));
    std::string line = absl::StrCat(kConfigName, ": ", key, ": ");
    if (in_first && in_second) {
      absl::StrAppend(&line, ValueText(first, key), " != ", ValueText(second, key));
    } else {
      absl::StrAppend(&line, ValueText(in_first ? first : second, key), " only in the ", in_first ? "first" : "second");
    }
    (same ? differences.written_out : differences.real).push_back(std::move(line));
  }
  return differences;
}

}  // namespace waypoint
