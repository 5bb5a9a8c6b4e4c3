#include "checkpoint/convert/config/field_path.h"

#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/convert/config/json_path.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/util/message_differencer.h"

namespace waypoint {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

absl::Status WrongType(const Json& value, absl::string_view wanted) {
  return MakeError(ErrorKind::kConfig, absl::StrCat("is ", JsonText(value), ", wanted ", wanted));
}

// [minimum, maximum] as the field's type has it; unsigned maxima beyond int64 are cut, no config needs them.
absl::StatusOr<int64_t> IntegerOf(const Json& value, int64_t minimum, int64_t maximum) {
  if (!value.is_number_integer()) {
    return WrongType(value, "an integer");
  }
  const std::string wanted = absl::StrCat("an integer from ", minimum, " to ", maximum);
  if (value.is_number_unsigned() &&
      value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return WrongType(value, wanted);
  }
  const int64_t number = value.get<int64_t>();
  if (number < minimum || number > maximum) {
    return WrongType(value, wanted);
  }
  return number;
}

Json ReadScalar(const Message& parent, const FieldDescriptor& field, int index) {
  const Reflection& reflection = *parent.GetReflection();
#define WAYPOINT_GET_(Kind) \
  (index < 0 ? reflection.Get##Kind(parent, &field) : reflection.GetRepeated##Kind(parent, &field, index))
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return WAYPOINT_GET_(Int32);
    case FieldDescriptor::CPPTYPE_INT64:
      return WAYPOINT_GET_(Int64);
    case FieldDescriptor::CPPTYPE_UINT32:
      return WAYPOINT_GET_(UInt32);
    case FieldDescriptor::CPPTYPE_UINT64:
      return WAYPOINT_GET_(UInt64);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return WAYPOINT_GET_(Double);
    case FieldDescriptor::CPPTYPE_FLOAT:
      return WAYPOINT_GET_(Float);
    case FieldDescriptor::CPPTYPE_BOOL:
      return WAYPOINT_GET_(Bool);
    case FieldDescriptor::CPPTYPE_STRING:
      return WAYPOINT_GET_(String);
    case FieldDescriptor::CPPTYPE_ENUM: {
      const auto* value = WAYPOINT_GET_(Enum);
      return value->name();
    }
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return WAYPOINT_GET_(Message).ShortDebugString();
  }
#undef WAYPOINT_GET_
  return nullptr;
}

absl::Status WriteScalar(const Json& value, const FieldDescriptor& field, Message* parent) {
  const Reflection& reflection = *parent->GetReflection();
  const bool repeated = field.is_repeated();
#define WAYPOINT_PUT_(Kind, number) \
  (repeated ? reflection.Add##Kind(parent, &field, number) : reflection.Set##Kind(parent, &field, number))
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32: {
      WAYPOINT_ASSIGN_OR_RETURN(const int64_t number, IntegerOf(value, std::numeric_limits<int32_t>::min(),
                                                                std::numeric_limits<int32_t>::max()));
      WAYPOINT_PUT_(Int32, static_cast<int32_t>(number));
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_INT64: {
      WAYPOINT_ASSIGN_OR_RETURN(const int64_t number, IntegerOf(value, std::numeric_limits<int64_t>::min(),
                                                                std::numeric_limits<int64_t>::max()));
      WAYPOINT_PUT_(Int64, number);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_UINT32: {
      WAYPOINT_ASSIGN_OR_RETURN(const int64_t number, IntegerOf(value, 0, std::numeric_limits<uint32_t>::max()));
      WAYPOINT_PUT_(UInt32, static_cast<uint32_t>(number));
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_UINT64: {
      WAYPOINT_ASSIGN_OR_RETURN(const int64_t number, IntegerOf(value, 0, std::numeric_limits<int64_t>::max()));
      WAYPOINT_PUT_(UInt64, static_cast<uint64_t>(number));
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_DOUBLE:
    case FieldDescriptor::CPPTYPE_FLOAT: {
      if (!value.is_number() || !std::isfinite(value.get<double>())) {
        return WrongType(value, "a finite number");
      }
      if (field.cpp_type() == FieldDescriptor::CPPTYPE_DOUBLE) {
        WAYPOINT_PUT_(Double, value.get<double>());
      } else {
        WAYPOINT_PUT_(Float, value.get<float>());
      }
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_BOOL:
      if (!value.is_boolean()) {
        return WrongType(value, "true or false");
      }
      WAYPOINT_PUT_(Bool, value.get<bool>());
      return absl::OkStatus();
    case FieldDescriptor::CPPTYPE_STRING:
      if (!value.is_string()) {
        return WrongType(value, "a string");
      }
      WAYPOINT_PUT_(String, value.get<std::string>());
      return absl::OkStatus();
    case FieldDescriptor::CPPTYPE_ENUM: {
      const auto* chosen = value.is_string() ? field.enum_type()->FindValueByName(value.get<std::string>()) : nullptr;
      if (chosen == nullptr) {
        std::vector<std::string> names;
        for (int i = 0; i < field.enum_type()->value_count(); ++i) {
          names.push_back(field.enum_type()->value(i)->name());
        }
        return WrongType(value, absl::StrCat("one of ", absl::StrJoin(names, ", ")));
      }
      WAYPOINT_PUT_(Enum, chosen);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_MESSAGE:
      break;
  }
#undef WAYPOINT_PUT_
  return absl::InternalError(absl::StrCat("field \"", field.full_name(), "\" is a message, not a value"));
}

// A oneof has one meaning per config: two declarations that choose different members contradict each other.
absl::Status CheckOneof(const Message& parent, const FieldDescriptor& field) {
  const auto* oneof = field.real_containing_oneof();
  if (oneof == nullptr) {
    return absl::OkStatus();
  }
  const FieldDescriptor* chosen = parent.GetReflection()->GetOneofFieldDescriptor(parent, oneof);
  if (chosen != nullptr && chosen != &field) {
    return absl::InternalError(
        absl::StrCat("\"", field.full_name(), "\" cannot be set: \"", chosen->name(), "\" of the same oneof is"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<FieldPath> FieldPath::Resolve(const Descriptor& root, absl::string_view path) {
  FieldPath result;
  result.text_ = std::string(path);
  const Descriptor* message = &root;
  for (const absl::string_view name : absl::StrSplit(path, '.')) {
    if (message == nullptr) {
      return absl::InternalError(
          absl::StrCat("native path \"", path, "\": \"", result.fields_.back()->name(), "\" has no fields of its own"));
    }
    const FieldDescriptor* field = message->FindFieldByName(std::string(name));
    if (field == nullptr) {
      return absl::InternalError(
          absl::StrCat("native path \"", path, "\": ", message->full_name(), " has no field \"", name, "\""));
    }
    result.fields_.push_back(field);
    message = field->is_repeated() ? nullptr : field->message_type();
  }
  return result;
}

const Message& FieldPath::Parent(const Message& root) const {
  const Message* message = &root;
  for (size_t i = 0; i + 1 < fields_.size(); ++i) {
    message = &message->GetReflection()->GetMessage(*message, fields_[i]);
  }
  return *message;
}

absl::StatusOr<Message*> FieldPath::MutableParent(Message* root) const {
  Message* message = root;
  for (size_t i = 0; i + 1 < fields_.size(); ++i) {
    WAYPOINT_RETURN_IF_ERROR(CheckOneof(*message, *fields_[i]));
    message = message->GetReflection()->MutableMessage(message, fields_[i]);
  }
  WAYPOINT_RETURN_IF_ERROR(CheckOneof(*message, leaf()));
  return message;
}

bool FieldPath::IsSet(const Message& root) const {
  const Message& parent = Parent(root);
  const Reflection& reflection = *parent.GetReflection();
  // Proto3 fields without presence are "had" exactly when they are not the default.
  return leaf().is_repeated() ? reflection.FieldSize(parent, &leaf()) > 0 : reflection.HasField(parent, &leaf());
}

Json FieldPath::Read(const Message& root) const {
  const Message& parent = Parent(root);
  if ((leaf().is_repeated() || leaf().has_presence()) && !IsSet(root)) {
    return nullptr;
  }
  if (!leaf().is_repeated()) {
    return ReadScalar(parent, leaf(), -1);
  }
  Json values = Json::array();
  for (int i = 0; i < parent.GetReflection()->FieldSize(parent, &leaf()); ++i) {
    values.push_back(ReadScalar(parent, leaf(), i));
  }
  return values;
}

const Message& FieldPath::ReadMessage(const Message& root) const {
  const Message& parent = Parent(root);
  return parent.GetReflection()->GetMessage(parent, &leaf());
}

absl::Status FieldPath::Write(const Json& value, Message* root) const {
  WAYPOINT_ASSIGN_OR_RETURN(Message* const parent, MutableParent(root));
  if (!leaf().is_repeated()) {
    return WriteScalar(value, leaf(), parent);
  }
  if (!value.is_array()) {
    return WrongType(value, "an array");
  }
  parent->GetReflection()->ClearField(parent, &leaf());
  for (const Json& element : value) {
    WAYPOINT_RETURN_IF_ERROR(WriteScalar(element, leaf(), parent));
  }
  return absl::OkStatus();
}

absl::StatusOr<Message*> FieldPath::MutableMessage(Message* root) const {
  WAYPOINT_ASSIGN_OR_RETURN(Message* const parent, MutableParent(root));
  return parent->GetReflection()->MutableMessage(parent, &leaf());
}

bool FieldPath::Equal(const Message& a, const Message& b) const {
  // The differencer looks at values only, and an unset field has one.
  if (IsSet(a) != IsSet(b)) {
    return false;
  }
  if (!IsSet(a)) {
    return true;
  }
  google::protobuf::util::MessageDifferencer differencer;
  return differencer.CompareWithFields(Parent(a), Parent(b), {&leaf()}, {&leaf()});
}

}  // namespace waypoint
