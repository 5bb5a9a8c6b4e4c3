#include "checkpoint/convert/config/composite.h"

#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/convert/config/field_path.h"

namespace waypoint {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::OneofDescriptor;
using google::protobuf::Reflection;

FieldPath Resolved(const Message& message, const std::string& path) {
  return FieldPath::Resolve(*message.GetDescriptor(), path).value();
}

absl::Status CheckType(const FieldDescriptor& field, const Section& section) {
  if (field.message_type() != &section.message()) {
    return absl::InternalError(
        absl::StrCat("native field \"", field.full_name(), "\" is no ", section.message().full_name()));
  }
  return absl::OkStatus();
}

// Whether there is an object to import; anything else that is there is a problem.
bool EnterObject(ImportContext& context, const std::string& external) {
  const Json* value = external.empty() ? context.Value() : context.Peek(external);
  if (value == nullptr || value->is_null()) {
    context.Claim(external);  // null
    return false;
  }
  if (!value->is_object()) {
    context.Claim(external);
    context.AddProblem(external, absl::StrCat("is ", JsonText(*value), ", wanted an object"));
    return false;
  }
  if (value->empty() && !external.empty()) {
    context.Claim(external);  // nothing in it could be claimed
  }
  return true;
}

std::vector<std::string> ClaimsOf(const Section& section) {
  std::vector<std::string> claims;
  for (const Declaration& declaration : section.declarations()) {
    for (std::string& claim : declaration.primitive->external_claims()) {
      claims.push_back(std::move(claim));
    }
  }
  return claims;
}

class NestedPrimitive : public Primitive {
 public:
  NestedPrimitive(std::string native, std::string external, Section section, NestedOptions options)
      : native_(std::move(native)),
        external_(std::move(external)),
        section_(std::move(section)),
        options_(std::move(options)) {}

  std::vector<NativeClaim> native_claims() const override { return {{native_, true}}; }

  std::vector<std::string> external_claims() const override {
    if (!external_.empty()) {
      return {external_};
    }
    std::vector<std::string> claims = ClaimsOf(section_);
    claims.push_back(options_.discriminator);
    return claims;
  }

  absl::Status Check(const Descriptor& message) const override {
    WAYPOINT_ASSIGN_OR_RETURN(const FieldPath field, FieldPath::Resolve(message, native_));
    if (field.leaf().is_repeated()) {
      return absl::InternalError(absl::StrCat("native field \"", native_, "\" is repeated"));
    }
    if (options_.optional && external_.empty()) {
      return absl::InternalError(
          absl::StrCat("native field \"", native_, "\" is optional, but its keys have no object"));
    }
    return CheckType(field.leaf(), section_);
  }

  void Import(ImportContext& context, Message* message) const override {
    if (!external_.empty() && context.Peek(external_) == nullptr) {
      context.Claim(external_);
      if (!options_.optional) {
        context.AddProblem(external_, "is missing");
      }
      return;
    }
    if (!external_.empty() && !EnterObject(context, external_)) {
      return;
    }
    ImportContext child = context.Child(ParseJsonPath(external_));
    if (options_.type_name.has_value()) {
      const Json* type = child.Find(options_.discriminator);
      if (type != nullptr && *type != *options_.type_name) {
        child.AddProblem(options_.discriminator,
                         absl::StrCat("is ", JsonText(*type), ", wanted \"", *options_.type_name, "\""));
        return;
      }
    }
    absl::StatusOr<Message*> part = Resolved(*message, native_).MutableMessage(message);
    if (!part.ok()) {
      context.AddProblem(external_, part.status());
      return;
    }
    section_.Import(child, *part);
  }

  void Export(const Message& message, ExportContext& context) const override {
    const FieldPath field = Resolved(message, native_);
    if (options_.optional && !field.IsSet(message)) {
      return;
    }
    ExportContext child = context.Child(ParseJsonPath(external_));
    if (options_.type_name.has_value()) {
      child.Set(options_.discriminator, *options_.type_name);
    }
    section_.Export(field.ReadMessage(message), child);
  }

 private:
  const std::string native_;
  const std::string external_;
  const Section section_;
  const NestedOptions options_;
};

class DispatchPrimitive : public Primitive {
 public:
  DispatchPrimitive(std::string native, const OneofDescriptor& oneof, std::string external, std::string discriminator,
                    std::vector<DispatchCase> cases)
      : native_(std::move(native)),
        oneof_(oneof),
        external_(std::move(external)),
        discriminator_(std::move(discriminator)),
        cases_(std::move(cases)) {}

  std::vector<NativeClaim> native_claims() const override {
    // The whole oneof, whatever its cases: a member without one is refused by name.
    std::vector<NativeClaim> claims;
    for (int i = 0; i < oneof_.field_count(); ++i) {
      claims.push_back({MemberPath(oneof_.field(i)->name()), true});
    }
    return claims;
  }

  std::vector<std::string> external_claims() const override {
    if (!external_.empty()) {
      return {external_};
    }
    std::vector<std::string> claims = {discriminator_};
    for (const DispatchCase& dispatch_case : cases_) {
      for (std::string& claim : ClaimsOf(dispatch_case.section)) {
        claims.push_back(std::move(claim));
      }
    }
    return claims;
  }

  absl::Status Check(const Descriptor& message) const override {
    std::set<std::string> members;
    std::set<std::string> types;
    for (const DispatchCase& dispatch_case : cases_) {
      WAYPOINT_ASSIGN_OR_RETURN(const FieldPath field, FieldPath::Resolve(message, MemberPath(dispatch_case.member)));
      WAYPOINT_RETURN_IF_ERROR(CheckType(field.leaf(), dispatch_case.section));
      if (field.leaf().real_containing_oneof() != &oneof_) {
        return absl::InternalError(
            absl::StrCat("native field \"", field.text(), "\" is no member of the oneof \"", oneof_.full_name(), "\""));
      }
      if (!members.insert(dispatch_case.member).second || !types.insert(dispatch_case.type_name).second) {
        return absl::InternalError(absl::StrCat("case \"", dispatch_case.member, "\" / \"", dispatch_case.type_name,
                                                "\" of \"", oneof_.full_name(), "\" is there twice"));
      }
    }
    return absl::OkStatus();
  }

  void Import(ImportContext& context, Message* message) const override {
    if (!EnterObject(context, external_)) {
      if (context.Peek(external_) == nullptr) {
        context.AddProblem(external_, "is missing");
      }
      return;
    }
    ImportContext child = context.Child(ParseJsonPath(external_));
    const Json* type = child.Find(discriminator_);
    for (const DispatchCase& dispatch_case : cases_) {
      if (type != nullptr && *type == dispatch_case.type_name) {
        absl::StatusOr<Message*> part = Resolved(*message, MemberPath(dispatch_case.member)).MutableMessage(message);
        if (!part.ok()) {
          context.AddProblem(external_, part.status());
          return;
        }
        dispatch_case.section.Import(child, *part);
        return;
      }
    }
    // What the other keys mean depends on the kind, so they are no unknown keys as well.
    context.Claim(external_.empty() ? discriminator_ : external_);
    if (type == nullptr) {
      child.AddProblem(discriminator_, absl::StrCat("is missing, wanted one of ", TypeNames()));
    } else {
      child.AddProblem(discriminator_, absl::StrCat("is ", JsonText(*type), ", supported are ", TypeNames()),
                       type->is_string() ? ErrorKind::kUnsupported : ErrorKind::kConfig);
    }
  }

  void Export(const Message& message, ExportContext& context) const override {
    const Message& holder = native_.empty() ? message : Resolved(message, native_).ReadMessage(message);
    const FieldDescriptor* member = holder.GetReflection()->GetOneofFieldDescriptor(holder, &oneof_);
    for (const DispatchCase& dispatch_case : cases_) {
      if (member != nullptr && member->name() == dispatch_case.member) {
        ExportContext child = context.Child(ParseJsonPath(external_));
        child.Set(discriminator_, dispatch_case.type_name);
        dispatch_case.section.Export(holder.GetReflection()->GetMessage(holder, member), child);
        return;
      }
    }
    context.AddProblem(absl::StrCat("native oneof \"", MemberPath(oneof_.name()), "\" is ",
                                    member == nullptr ? "unset" : absl::StrCat("\"", member->name(), "\""),
                                    ", the external format has ", TypeNames()),
                       member == nullptr ? ErrorKind::kConfig : ErrorKind::kUnsupported);
  }

 private:
  std::string MemberPath(const std::string& member) const {
    return native_.empty() ? member : absl::StrCat(native_, ".", member);
  }

  std::string TypeNames() const {
    std::vector<std::string> names;
    for (const DispatchCase& dispatch_case : cases_) {
      names.push_back(absl::StrCat("\"", dispatch_case.type_name, "\""));
    }
    return absl::StrJoin(names, ", ");
  }

  const std::string native_;
  const OneofDescriptor& oneof_;
  const std::string external_;
  const std::string discriminator_;
  const std::vector<DispatchCase> cases_;
};

class TypedDictPrimitive : public Primitive {
 public:
  TypedDictPrimitive(std::string native, std::string external, Section section)
      : native_(std::move(native)), external_(std::move(external)), section_(std::move(section)) {}

  std::vector<NativeClaim> native_claims() const override { return {{native_, true}}; }
  std::vector<std::string> external_claims() const override { return {external_}; }

  absl::Status Check(const Descriptor& message) const override {
    WAYPOINT_ASSIGN_OR_RETURN(const FieldPath field, FieldPath::Resolve(message, native_));
    if (!field.leaf().is_map() ||
        field.leaf().message_type()->map_key()->cpp_type() != FieldDescriptor::CPPTYPE_STRING) {
      return absl::InternalError(absl::StrCat("native field \"", native_, "\" is no map from string"));
    }
    if (external_.empty()) {
      return absl::InternalError(
          absl::StrCat("native field \"", native_, "\": a dictionary needs an object of its own"));
    }
    return CheckType(*field.leaf().message_type()->map_value(), section_);
  }

  void Import(ImportContext& context, Message* message) const override {
    if (!EnterObject(context, external_)) {
      return;
    }
    const FieldPath field = Resolved(*message, native_);
    absl::StatusOr<Message*> parent = field.MutableParent(message);
    if (!parent.ok()) {
      context.AddProblem(external_, parent.status());
      return;
    }
    const Json& entries = *context.Peek(external_);
    for (auto it = entries.begin(); it != entries.end(); ++it) {
      JsonPath place = ParseJsonPath(external_);
      place.push_back(it.key());
      ImportContext child = context.Child(place);
      if (!it.value().is_object() || it.value().empty()) {
        child.Claim("");
        child.AddProblem("", absl::StrCat("is ", JsonText(it.value()), ", wanted an object with members"));
        continue;
      }
      Message* entry = (*parent)->GetReflection()->AddMessage(*parent, &field.leaf());
      const Descriptor& type = *entry->GetDescriptor();
      entry->GetReflection()->SetString(entry, type.map_key(), it.key());
      section_.Import(child, entry->GetReflection()->MutableMessage(entry, type.map_value()));
    }
  }

  void Export(const Message& message, ExportContext& context) const override {
    const FieldPath field = Resolved(message, native_);
    const Message& parent = field.Parent(message);
    // Sorted: maps have no order of their own, and the same config must give the same file.
    std::map<std::string, const Message*> values;
    for (int i = 0; i < parent.GetReflection()->FieldSize(parent, &field.leaf()); ++i) {
      const Message& entry = parent.GetReflection()->GetRepeatedMessage(parent, &field.leaf(), i);
      const Descriptor& type = *entry.GetDescriptor();
      const Reflection& reflection = *entry.GetReflection();
      values[reflection.GetString(entry, type.map_key())] = &reflection.GetMessage(entry, type.map_value());
    }
    for (const auto& [name, value] : values) {
      JsonPath place = ParseJsonPath(external_);
      place.push_back(name);
      section_.Export(*value, context.Child(place));
    }
  }

 private:
  const std::string native_;
  const std::string external_;
  const Section section_;
};

}  // namespace

PrimitivePtr Nested(std::string native, std::string external, Section section, NestedOptions options) {
  return std::make_shared<NestedPrimitive>(std::move(native), std::move(external), std::move(section),
                                           std::move(options));
}

PrimitivePtr Dispatch(std::string native, const OneofDescriptor& oneof, std::string external, std::string discriminator,
                      std::vector<DispatchCase> cases) {
  return std::make_shared<DispatchPrimitive>(std::move(native), oneof, std::move(external), std::move(discriminator),
                                             std::move(cases));
}

PrimitivePtr TypedDict(std::string native, std::string external, Section section) {
  return std::make_shared<TypedDictPrimitive>(std::move(native), std::move(external), std::move(section));
}

}  // namespace waypoint
