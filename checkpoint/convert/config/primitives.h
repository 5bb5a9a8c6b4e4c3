#ifndef CHECKPOINT_CONVERT_CONFIG_PRIMITIVES_H_
#define CHECKPOINT_CONVERT_CONFIG_PRIMITIVES_H_

// The primitives that a section is made of, but for those that contain other sections (composite.h).
//
// `native` is a dotted path of proto fields, `external` a dotted path of JSON keys, both relative to the section.  A
// null in a document means absent.  Values are checked by the native field's type (field_path.h); a value that does not
// fit is a problem that names the key, the value and what is wanted.  Functions are pure.

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "checkpoint/convert/config/primitive.h"

namespace waypoint {

// Translates a scalar, for example the names of activations.  Both directions refuse what they do not know.
struct Codec {
  std::function<absl::StatusOr<Json>(const Json& external)> to_native;
  std::function<absl::StatusOr<Json>(const Json& native)> to_external;
};

// The default of an absent key, by what was imported before it (declarations run in order).
using DefaultFn = std::function<absl::StatusOr<Json>(const google::protobuf::Message& imported)>;

// Export: external := native.  Import: native := external, which must be there.
PrimitivePtr Rename(std::string native, std::string external);
PrimitivePtr Rename(std::string native, std::string external, Codec codec);

// Export: external := constant.  Import: a present external value must equal it.  Claims no native field.
struct ConstantExportOptions {
  // E_UNSUPPORTED for what names another family; a value of another JSON type is E_CONFIG always.
  ErrorKind mismatch = ErrorKind::kConfig;
  // Refuse a document without it.
  bool required = false;
};
PrimitivePtr ConstantExport(std::string external, Json constant, ConstantExportOptions options = {});

// Export: native must equal the constant; nothing is written.  Import: native := constant.  A null constant means
// unset, and then the field may be a message.
PrimitivePtr ConstantImport(std::string native, Json constant);

struct DefaultOptions {
  // An explicit null is refused: for keys whose null the external implementation does not accept either.
  bool refuse_null = false;
  // Say in a note that the default was taken.
  bool note = false;
};
// Export as Rename.  Import: external if it is there, else the default (an external value, translated by the codec).
PrimitivePtr Default(std::string native, std::string external, Json value, DefaultOptions options = {});
PrimitivePtr Default(std::string native, std::string external, Json value, Codec codec, DefaultOptions options = {});
PrimitivePtr Default(std::string native, std::string external, DefaultFn value, DefaultOptions options = {});

// Export: written unless it is the sentinel.  Import: set only if it is there and not the sentinel.  The sentinel is
// what the native field reads as when unset (null for fields with presence), or an export and an import would differ.
PrimitivePtr Optional(std::string native, std::string external, Json sentinel = nullptr);

// Nothing either way: the fields are lost on export and the keys on import, for the reason given.
PrimitivePtr Ignored(std::vector<NativeClaim> native, std::vector<std::string> external, std::string reason);

// A present, non-null key is refused with E_UNSUPPORTED and the reason, which says what to do.
PrimitivePtr Refused(std::string external, std::string reason);

using ExportFn = std::function<void(const google::protobuf::Message&, ExportContext&)>;
using ImportFn = std::function<void(ImportContext&, google::protobuf::Message*)>;

// Whatever the functions do.  Import claims external keys by ImportContext::Find, and may read and claim only below
// `external`; a key below them that it does not claim is unknown.
PrimitivePtr Custom(std::vector<NativeClaim> native, std::vector<std::string> external, ExportFn export_fn,
                    ImportFn import_fn);

// Native fields that follow from other keys: nothing is written, and an export whose import does not give the same
// fields is an error (ConfigConverter::Export).
PrimitivePtr ImportOnly(std::vector<NativeClaim> native, std::vector<std::string> external, ImportFn import_fn);

}  // namespace waypoint

#endif  // CHECKPOINT_CONVERT_CONFIG_PRIMITIVES_H_
