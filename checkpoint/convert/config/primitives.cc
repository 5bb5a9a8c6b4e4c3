#include "checkpoint/convert/config/primitives.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/convert/config/field_path.h"
#include "google/protobuf/descriptor.h"

namespace waypoint {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

// A path that Check has resolved before.
FieldPath Resolved(const Message& message, const std::string& path) {
  return FieldPath::Resolve(*message.GetDescriptor(), path).value();
}

bool IsScalar(const FieldDescriptor& field) { return field.cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE; }

// One native scalar, one external key.
class Scalar : public Primitive {
 public:
  struct Options {
    // Empty functions: values are the same on both sides.
    Codec codec;
    // At most one of the two.
    absl::optional<Json> constant_default;
    DefaultFn default_fn;
    DefaultOptions default_options;
    // Optional: absence is a value.
    absl::optional<Json> sentinel;
  };

  Scalar(std::string native, std::string external, Options options)
      : native_(std::move(native)), external_(std::move(external)), options_(std::move(options)) {}

  std::vector<NativeClaim> native_claims() const override { return {{native_, false}}; }
  std::vector<std::string> external_claims() const override { return {external_}; }

  absl::Status Check(const Descriptor& message) const override {
    WAYPOINT_ASSIGN_OR_RETURN(const FieldPath field, FieldPath::Resolve(message, native_));
    if (!IsScalar(field.leaf())) {
      return absl::InternalError(absl::StrCat("native field \"", native_, "\" is a message, wanted a scalar"));
    }
    const Message& empty = *google::protobuf::MessageFactory::generated_factory()->GetPrototype(&message);
    if (options_.sentinel.has_value() && field.Read(empty) != *options_.sentinel) {
      return absl::InternalError(absl::StrCat("native field \"", native_, "\" reads ", JsonText(field.Read(empty)),
                                              " when unset, its sentinel is ", JsonText(*options_.sentinel)));
    }
    return absl::OkStatus();
  }

  void Import(ImportContext& context, Message* message) const override {
    const bool is_null = context.IsNull(external_);
    Json external;
    bool is_default = false;
    if (const Json* found = context.Find(external_); found != nullptr) {
      if (options_.sentinel.has_value() && *found == *options_.sentinel) {
        return;
      }
      external = *found;
    } else if (options_.sentinel.has_value()) {
      return;
    } else {
      if (is_null && options_.default_options.refuse_null) {
        context.AddProblem(external_, "is null, which has no meaning here; write a value or remove the key");
        return;
      }
      absl::StatusOr<Json> value = DefaultValue(*message);
      if (!value.ok()) {
        // A default by values that were refused says nothing new.
        if (!context.has_problems()) {
          context.AddProblem(external_, value.status());
        }
        return;
      }
      external = *std::move(value);
      is_default = true;
      if (options_.default_options.note) {
        context.AddNote(absl::StrCat("\"", context.FullPath(external_), "\" is absent; its default ",
                                     JsonText(external), " was taken"));
      }
    }
    absl::StatusOr<Json> native = external;
    if (options_.codec.to_native) {
      native = options_.codec.to_native(external);
    }
    absl::Status status = native.status();
    if (status.ok()) {
      status = Resolved(*message, native_).Write(*native, message);
    }
    if (!status.ok() && !(is_default && context.has_problems())) {
      context.AddProblem(external_, status);
    }
  }

  void Export(const Message& message, ExportContext& context) const override {
    const Json native = Resolved(message, native_).Read(message);
    if (options_.sentinel.has_value() && native == *options_.sentinel) {
      // An original that has the key keeps it, as null.
      if (context.Original(external_) != nullptr) {
        context.Set(external_, nullptr);
      }
      return;
    }
    if (native.is_null()) {
      context.AddProblem(
          absl::StrCat("native field \"", native_, "\" is unset, \"", external_, "\" cannot be written"));
      return;
    }
    absl::StatusOr<Json> external = native;
    if (options_.codec.to_external) {
      external = options_.codec.to_external(native);
    }
    if (!external.ok()) {
      context.AddProblem(absl::StrCat("native field \"", native_, "\" ", external.status().message()));
      return;
    }
    context.Set(external_, *std::move(external));
  }

 private:
  absl::StatusOr<Json> DefaultValue(const Message& message) const {
    if (options_.constant_default.has_value()) {
      return *options_.constant_default;
    }
    if (options_.default_fn) {
      return options_.default_fn(message);
    }
    return MakeError(ErrorKind::kConfig, "is missing");
  }

  const std::string native_;
  const std::string external_;
  const Options options_;
};

class ConstantExportPrimitive : public Primitive {
 public:
  ConstantExportPrimitive(std::string external, Json constant, ConstantExportOptions options)
      : external_(std::move(external)), constant_(std::move(constant)), options_(options) {}

  std::vector<NativeClaim> native_claims() const override { return {}; }
  std::vector<std::string> external_claims() const override { return {external_}; }
  absl::Status Check(const Descriptor&) const override { return absl::OkStatus(); }

  void Import(ImportContext& context, Message*) const override {
    const Json* found = context.Find(external_);
    if (found == nullptr) {
      if (options_.required) {
        context.AddProblem(external_, absl::StrCat("is missing, wanted ", JsonText(constant_)));
      }
      return;
    }
    if (*found != constant_) {
      const bool same_type = found->type() == constant_.type();
      context.AddProblem(external_, absl::StrCat("is ", JsonText(*found), ", this format has ", JsonText(constant_)),
                         same_type ? options_.mismatch : ErrorKind::kConfig);
    }
  }

  void Export(const Message&, ExportContext& context) const override { context.Set(external_, constant_); }

 private:
  const std::string external_;
  const Json constant_;
  const ConstantExportOptions options_;
};

class ConstantImportPrimitive : public Primitive {
 public:
  ConstantImportPrimitive(std::string native, Json constant)
      : native_(std::move(native)), constant_(std::move(constant)) {}

  std::vector<NativeClaim> native_claims() const override { return {{native_, constant_.is_null()}}; }
  std::vector<std::string> external_claims() const override { return {}; }

  absl::Status Check(const Descriptor& message) const override {
    WAYPOINT_ASSIGN_OR_RETURN(const FieldPath field, FieldPath::Resolve(message, native_));
    const Message& prototype = *google::protobuf::MessageFactory::generated_factory()->GetPrototype(&message);
    if (constant_.is_null()) {
      return field.Read(prototype).is_null()
                 ? absl::OkStatus()
                 : absl::InternalError(absl::StrCat("native field \"", native_, "\" cannot be unset"));
    }
    std::unique_ptr<Message> scratch(prototype.New());
    return field.Write(constant_, scratch.get());
  }

  void Import(ImportContext& context, Message* message) const override {
    if (!constant_.is_null()) {
      if (const absl::Status status = Resolved(*message, native_).Write(constant_, message); !status.ok()) {
        context.log().problems.Add(status, absl::StrCat("native field \"", native_, "\""));
      }
    }
  }

  void Export(const Message& message, ExportContext& context) const override {
    const Json value = Resolved(message, native_).Read(message);
    if (value != constant_) {
      context.AddProblem(absl::StrCat("native field \"", native_, "\" is ", JsonText(value),
                                      ", the external format can only express ",
                                      constant_.is_null() ? "its absence" : JsonText(constant_)));
    }
  }

 private:
  const std::string native_;
  const Json constant_;
};

// Functions, with any of them absent.
class Functions : public Primitive {
 public:
  Functions(std::vector<NativeClaim> native, std::vector<std::string> external, ExportFn export_fn, ImportFn import_fn,
            bool ignores_native)
      : native_(std::move(native)),
        external_(std::move(external)),
        export_(std::move(export_fn)),
        import_(std::move(import_fn)),
        ignores_native_(ignores_native) {}

  std::vector<NativeClaim> native_claims() const override { return native_; }
  std::vector<std::string> external_claims() const override { return external_; }
  bool ignores_native() const override { return ignores_native_; }

  absl::Status Check(const Descriptor& message) const override {
    for (const NativeClaim& claim : native_) {
      WAYPOINT_RETURN_IF_ERROR(FieldPath::Resolve(message, claim.path).status());
    }
    return absl::OkStatus();
  }

  void Import(ImportContext& context, Message* message) const override {
    if (import_) {
      import_(context, message);
    }
  }

  void Export(const Message& message, ExportContext& context) const override {
    if (export_) {
      export_(message, context);
    }
  }

 private:
  const std::vector<NativeClaim> native_;
  const std::vector<std::string> external_;
  const ExportFn export_;
  const ImportFn import_;
  const bool ignores_native_;
};

}  // namespace

PrimitivePtr Rename(std::string native, std::string external) {
  return std::make_shared<Scalar>(std::move(native), std::move(external), Scalar::Options());
}

PrimitivePtr Rename(std::string native, std::string external, Codec codec) {
  Scalar::Options options;
  options.codec = std::move(codec);
  return std::make_shared<Scalar>(std::move(native), std::move(external), std::move(options));
}

PrimitivePtr ConstantExport(std::string external, Json constant, ConstantExportOptions options) {
  return std::make_shared<ConstantExportPrimitive>(std::move(external), std::move(constant), options);
}

PrimitivePtr ConstantImport(std::string native, Json constant) {
  return std::make_shared<ConstantImportPrimitive>(std::move(native), std::move(constant));
}

PrimitivePtr Default(std::string native, std::string external, Json value, DefaultOptions default_options) {
  Scalar::Options options;
  options.constant_default = std::move(value);
  options.default_options = default_options;
  return std::make_shared<Scalar>(std::move(native), std::move(external), std::move(options));
}

PrimitivePtr Default(std::string native, std::string external, Json value, Codec codec,
                     DefaultOptions default_options) {
  Scalar::Options options;
  options.constant_default = std::move(value);
  options.codec = std::move(codec);
  options.default_options = default_options;
  return std::make_shared<Scalar>(std::move(native), std::move(external), std::move(options));
}

PrimitivePtr Default(std::string native, std::string external, DefaultFn value, DefaultOptions default_options) {
  Scalar::Options options;
  options.default_fn = std::move(value);
  options.default_options = default_options;
  return std::make_shared<Scalar>(std::move(native), std::move(external), std::move(options));
}

PrimitivePtr Optional(std::string native, std::string external, Json sentinel) {
  Scalar::Options options;
  options.sentinel = std::move(sentinel);
  return std::make_shared<Scalar>(std::move(native), std::move(external), std::move(options));
}

PrimitivePtr Ignored(std::vector<NativeClaim> native, std::vector<std::string> external, std::string reason) {
  for (NativeClaim& claim : native) {
    claim.recursive = true;
  }
  ImportFn claim_all = [external, reason](ImportContext& context, Message*) {
    for (const std::string& path : external) {
      if (const Json* value = context.Find(path); value != nullptr) {
        context.AddNote(absl::StrCat("\"", context.FullPath(path), "\" is ", JsonText(*value), ", ignored: ", reason));
      }
    }
  };
  return std::make_shared<Functions>(std::move(native), std::move(external), nullptr, std::move(claim_all), true);
}

PrimitivePtr Refused(std::string external, std::string reason) {
  ImportFn refuse = [external, reason](ImportContext& context, Message*) {
    if (const Json* value = context.Find(external); value != nullptr) {
      context.AddProblem(external, absl::StrCat("is ", JsonText(*value), ": ", reason), ErrorKind::kUnsupported);
    }
  };
  return std::make_shared<Functions>(std::vector<NativeClaim>(), std::vector<std::string>{external}, nullptr,
                                     std::move(refuse), false);
}

PrimitivePtr Custom(std::vector<NativeClaim> native, std::vector<std::string> external, ExportFn export_fn,
                    ImportFn import_fn) {
  return std::make_shared<Functions>(std::move(native), std::move(external), std::move(export_fn), std::move(import_fn),
                                     false);
}

PrimitivePtr ImportOnly(std::vector<NativeClaim> native, std::vector<std::string> external, ImportFn import_fn) {
  return std::make_shared<Functions>(std::move(native), std::move(external), nullptr, std::move(import_fn), false);
}

}  // namespace waypoint
