#ifndef CHECKPOINT_CONVERT_CONFIG_CONFIG_CONVERTER_H_
#define CHECKPOINT_CONVERT_CONFIG_CONFIG_CONVERTER_H_

// A whole external config document to and from a native message, by a section and the keys that need no declaration.
//
//   const ConfigConverter converter(LlamaSection(), HarmlessKeys().Add("", TransformersRootKeys()));
//   WAYPOINT_ASSIGN_OR_RETURN(ImportReport report, converter.Import(document, {}, &config));
//   WAYPOINT_ASSIGN_OR_RETURN(Json again, converter.Export(config, &document, {}));   // again == document
//
// Thread-compatible: const methods may run concurrently.

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoint/base/json.h"
#include "checkpoint/convert/config/carried_key.h"
#include "checkpoint/convert/config/context.h"
#include "checkpoint/convert/config/harmless_keys.h"
#include "checkpoint/convert/config/section.h"
#include "google/protobuf/message.h"

namespace waypoint {

struct ConfigImportOptions {
  // Keys that nobody knows are carried through instead of refused.  They may change what the model computes elsewhere.
  bool carry_unknown = false;
};

struct ImportReport {
  // For the user: defaults that were taken, unknown keys that were let in.
  std::vector<std::string> notes;
  // Keys that the native config does not hold: an export needs the original document for them.
  std::vector<CarriedKey> carried;
};

struct ConfigExportOptions {
  // Decides only what the original does not.
  ExternalLayout layout = ExternalLayout::kTransformers4;
};

class ConfigConverter {
 public:
  ConfigConverter(Section section, HarmlessKeys harmless)
      : section_(std::move(section)), harmless_(std::move(harmless)) {}

  // `message` must be empty and of the section's type.  On an error its content is unspecified.
  //
  // Every key is claimed by a declaration, harmless (harmless_keys.h), null, or unknown.  All problems come in one
  // error, in which one entry lists all the unknown keys with their values.
  //
  // Errors: E_SCHEMA when the document is no object; E_UNSUPPORTED when a problem is a recognised, unsupported model;
  // E_CONFIG else.
  absl::StatusOr<ImportReport> Import(const Json& document, const ConfigImportOptions& options,
                                      google::protobuf::Message* message) const;

  // With an original (the document from which the message was imported, or an earlier one of it; null for none):
  // declarations whose native fields are what the original says leave their keys as they are there, to the order, the
  // number's spelling, an absence or a null.  The others write theirs; a key that was absent stays so when its default
  // says the same.  Keys without a declaration stay.  Without an original: all that the declarations write, in their
  // order.
  //
  // The result is imported again and compared with the message: what it would lose is an error, never silent.
  //
  // Errors: E_CONFIG or E_UNSUPPORTED as the declarations say; E_CONFIG for native fields that an import of the result
  // does not give back; Import's errors when the original cannot be imported.
  absl::StatusOr<Json> Export(const google::protobuf::Message& message, const Json* original,
                              const ConfigExportOptions& options) const;

  // The same status with the external key named where a check of the native config named the field ("PATH is ..."), so
  // that a user finds it in the document.
  absl::Status NameExternalKeys(const absl::Status& status) const;

  const Section& section() const { return section_; }

 private:
  absl::Status Run(const Json& document, const ConfigImportOptions& options, google::protobuf::Message* message,
                   ImportLog* log, ImportReport* report) const;

  Section section_;
  HarmlessKeys harmless_;
};

}  // namespace waypoint

#endif  // CHECKPOINT_CONVERT_CONFIG_CONFIG_CONVERTER_H_
