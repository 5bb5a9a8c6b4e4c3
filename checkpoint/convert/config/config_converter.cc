#include "checkpoint/convert/config/config_converter.h"

#include <algorithm>
#include <memory>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/convert/config/field_path.h"

namespace waypoint {
namespace {

using google::protobuf::Message;

constexpr size_t kShownKeys = 200;

// Whether two messages agree in all that a declaration answers for.
bool SameFields(const Primitive& primitive, const Message& a, const Message& b) {
  for (const NativeClaim& claim : primitive.native_claims()) {
    if (!FieldPath::Resolve(*a.GetDescriptor(), claim.path)->Equal(a, b)) {
      return false;
    }
  }
  return true;
}

// Whether the original says nothing in any place that the declaration writes now.
bool AbsentIn(const Json& original, const std::vector<ExportLog::Write>& writes, size_t unit) {
  return std::all_of(writes.begin(), writes.end(), [&](const ExportLog::Write& write) {
    const Json* value = write.unit == unit ? FindJson(original, write.path) : nullptr;
    return value == nullptr || value->is_null();
  });
}

// The original with the keys of the units that are not kept replaced by what they write.
absl::StatusOr<Json> Merge(const Json& original, const std::map<JsonPath, std::set<size_t>>& claims,
                           const std::vector<ExportLog::Write>& writes, const std::vector<bool>& kept) {
  Json merged = original;
  std::set<JsonPath> written;
  for (const ExportLog::Write& write : writes) {
    if (kept[write.unit]) {
      continue;
    }
    written.insert(write.path);
    const Json* old = FindJson(original, write.path);
    if (old != nullptr && *old == write.value) {
      continue;  // the original's spelling of the number
    }
    if (!SetJson(write.path, write.value, &merged)) {
      return MakeError(ErrorKind::kConfig, absl::StrCat("\"", JsonPathText(write.path),
                                                        "\" cannot be written: the original has no object there"));
    }
  }
  for (const auto& [path, units] : claims) {
    const bool stays = std::any_of(units.begin(), units.end(), [&](size_t unit) { return kept[unit]; });
    // Claims sort before what lies below them.
    const auto at_or_below = written.lower_bound(path);
    if (!stays && (at_or_below == written.end() || !HasPrefix(*at_or_below, path))) {
      EraseJson(path, &merged);
    }
  }
  return merged;
}

}  // namespace

absl::Status ConfigConverter::Run(const Json& document, const ConfigImportOptions& options, Message* message,
                                  ImportLog* log, ImportReport* report) const {
  if (!document.is_object()) {
    return MakeError(ErrorKind::kSchema, absl::StrCat("config is ", JsonText(document), ", wanted an object"));
  }
  for (size_t i = 0; i < section_.declarations().size(); ++i) {
    log->unit = i;
    Section::ImportOne(section_.declarations()[i], ImportContext(document, log), message);
  }
  std::set<JsonPath> claims;
  for (const auto& [path, units] : log->claims) {
    claims.insert(path);
  }
  std::set<JsonPath> harmless_paths;
  for (const auto& [path, key] : harmless_.keys()) {
    harmless_paths.insert(path);
  }
  std::vector<std::string> unknown;
  for (const auto& [path, value] : UnclaimedJson(document, claims, harmless_paths)) {
    const HarmlessKey* harmless = harmless_.Find(path);
    if (harmless != nullptr && harmless->value != nullptr && !value->is_null() &&
        *value != Json::parse(harmless->value)) {
      log->problems.Add(ErrorKind::kUnsupported,
                        absl::StrCat(Quoted(JsonPathText(path)), " is ", JsonText(*value), ", supported is ",
                                     harmless->value, ": ", harmless->reason));
      continue;
    }
    report->carried.push_back({path, harmless == nullptr ? "" : harmless->reason});
    if (harmless == nullptr && !value->is_null()) {
      unknown.push_back(absl::StrCat(Quoted(JsonPathText(path)), " = ", JsonText(*value)));
    }
  }
  if (!unknown.empty()) {
    const size_t shown = std::min(unknown.size(), kShownKeys);
    std::string list = absl::StrJoin(unknown.begin(), unknown.begin() + shown, ", ");
    if (shown < unknown.size()) {
      absl::StrAppend(&list, " and ", unknown.size() - shown, " more");
    }
    const std::string count = absl::StrCat(unknown.size(), unknown.size() == 1 ? " unknown key" : " unknown keys");
    if (options.carry_unknown) {
      // Whether the target has a place for them is for the target to say.
      log->notes.push_back(absl::StrCat("let in ", count, ": ", list));
    } else {
      log->problems.Add(
          ErrorKind::kConfig,
          absl::StrCat(count,
                       ", which may change what the model computes (--carry-unknown, in a training config "
                       "pretrained.carry_unknown: true, carries ",
                       unknown.size() == 1 ? "it" : "them", " through unchanged): ", list));
    }
  }
  report->notes = log->notes;
  return log->problems.ToStatus("config");
}

absl::StatusOr<ImportReport> ConfigConverter::Import(const Json& document, const ConfigImportOptions& options,
                                                     Message* message) const {
  ImportLog log;
  ImportReport report;
  WAYPOINT_RETURN_IF_ERROR(Run(document, options, message, &log, &report));
  return report;
}

absl::Status ConfigConverter::NameExternalKeys(const absl::Status& status) const {
  if (status.ok()) {
    return status;
  }
  std::vector<std::pair<std::string, std::string>> replacements;
  for (const Declaration& declaration : section_.declarations()) {
    const std::vector<NativeClaim> native = declaration.primitive->native_claims();
    const std::vector<std::string> external = declaration.primitive->external_claims();
    if (native.size() == 1 && external.size() == 1 && native[0].path != external[0]) {
      replacements.emplace_back(absl::StrCat(native[0].path, " is "),
                                absl::StrCat("\"", external[0], "\" (", native[0].path, ") is "));
    }
  }
  return MakeError(GetErrorKind(status), absl::StrReplaceAll(status.message(), replacements));
}

absl::StatusOr<Json> ConfigConverter::Export(const Message& message, const Json* original,
                                             const ConfigExportOptions& options) const {
  const std::vector<Declaration>& declarations = section_.declarations();
  ConfigImportOptions carry;
  carry.carry_unknown = true;

  ExportLog log;
  for (size_t i = 0; i < declarations.size(); ++i) {
    log.unit = i;
    Section::ExportOne(declarations[i], message, ExportContext(original, options.layout, &log));
  }
  WAYPOINT_RETURN_IF_ERROR(log.problems.ToStatus("config cannot be exported"));

  ImportLog original_log;
  std::vector<bool> kept(declarations.size(), false);
  if (original != nullptr) {
    std::unique_ptr<Message> before(message.New());
    ImportReport report;
    WAYPOINT_RETURN_IF_ERROR(
        Annotate(Run(*original, carry, before.get(), &original_log, &report), "original of the exported config"));
    for (size_t i = 0; i < declarations.size(); ++i) {
      // An absent key stays absent if its default is right, which only the import below can tell.
      kept[i] = SameFields(*declarations[i].primitive, *before, message) || AbsentIn(*original, log.writes, i);
    }
  }

  const Json nothing = Json::object();
  while (true) {
    WAYPOINT_ASSIGN_OR_RETURN(Json result,
                              Merge(original == nullptr ? nothing : *original, original_log.claims, log.writes, kept));
    std::unique_ptr<Message> after(message.New());
    ImportLog after_log;
    ImportReport report;
    const absl::Status status = Run(result, carry, after.get(), &after_log, &report);
    std::vector<std::string> lost;
    bool again = false;
    for (size_t i = 0; i < declarations.size(); ++i) {
      const Primitive& primitive = *declarations[i].primitive;
      if (primitive.ignores_native() || primitive.native_claims().empty() ||
          (status.ok() && SameFields(primitive, *after, message))) {
        continue;
      }
      if (kept[i]) {
        kept[i] = false;
        again = true;
      } else {
        lost.push_back(declarations[i].key);
      }
    }
    if (again) {
      continue;
    }
    WAYPOINT_RETURN_IF_ERROR(Annotate(status, "exported config would be refused on import"));
    if (!lost.empty()) {
      return MakeError(
          ErrorKind::kConfig,
          absl::StrCat("config cannot be exported: an import would change the fields of ", absl::StrJoin(lost, ", ")));
    }
    return result;
  }
}

}  // namespace waypoint
