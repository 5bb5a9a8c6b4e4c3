#include <algorithm>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/list_error.h"
#include "checkpoint/base/status_macros.h"
#include "engine/config.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/io/tokenizer.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "google/protobuf/message.h"

namespace waypoint::engine {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;
using google::protobuf::TextFormat;

constexpr int64_t kConfigFileBytes = int64_t{16} << 20;

std::string FieldNames(const Descriptor& message) {
  std::vector<std::string> names;
  for (int i = 0; i < message.field_count(); ++i) {
    names.push_back(message.field(i)->name());
  }
  return absl::StrJoin(names, ", ");
}

std::string ValueNames(const google::protobuf::EnumDescriptor& values) {
  std::vector<std::string> names;
  for (int i = 0; i < values.value_count(); ++i) {
    if (values.value(i)->number() != 0) {  // 0 is "unspecified" in every enum here
      names.push_back(values.value(i)->name());
    }
  }
  return absl::StrJoin(names, ", ");
}

// protobuf's own message names type and field; what a user needs next are the names that exist.
std::string WithChoices(absl::string_view message) {
  const std::vector<absl::string_view> parts = absl::StrSplit(message, '"');
  if (parts.size() >= 4 && absl::StrContains(message, "has no field named")) {
    const Descriptor* type =
        google::protobuf::DescriptorPool::generated_pool()->FindMessageTypeByName(std::string(parts[1]));
    if (type != nullptr) {
      return absl::StrCat("no field \"", parts[3], "\" in ", type->name(), ", which has ", FieldNames(*type));
    }
  }
  return std::string(absl::StripSuffix(message, "."));
}

class ErrorLines final : public google::protobuf::io::ErrorCollector {
 public:
  explicit ErrorLines(absl::string_view what) : what_(what) {}
  void AddError(int line, google::protobuf::io::ColumnNumber column, const std::string& message) override {
    lines_.push_back(line < 0 ? absl::StrCat(what_, ": ", WithChoices(message))
                              : absl::StrCat(what_, ":", line + 1, ":", column + 1, ": ", WithChoices(message)));
  }
  absl::Status ToStatus(ErrorKind kind) const {
    const absl::Span<const std::string> lines(lines_);
    return MakeListError(kind, lines.empty() ? what_ : lines[0], lines.subspan(lines.empty() ? 0 : 1));
  }

 private:
  std::string what_;
  std::vector<std::string> lines_;
};

absl::Status ParseText(absl::string_view text, absl::string_view what, ErrorKind kind, Message& message,
                       TextFormat::ParseInfoTree* mentioned) {
  ErrorLines errors(what);
  TextFormat::Parser parser;
  parser.RecordErrorsTo(&errors);
  parser.WriteLocationsTo(mentioned);
  google::protobuf::io::ArrayInputStream input(text.data(), static_cast<int>(text.size()));
  return parser.Parse(&input, &message) ? absl::OkStatus() : errors.ToStatus(kind);
}

std::string MapKey(const Message& entry) {
  std::string text;
  TextFormat::PrintFieldValueToString(entry, entry.GetDescriptor()->map_key(), -1, &text);
  return text;
}

void MergeMentioned(const Message& from, const TextFormat::ParseInfoTree& mentioned, Message& into);

// Entries of the same key merge, others are added.
void MergeMap(const Message& from, const TextFormat::ParseInfoTree& mentioned, const FieldDescriptor& field,
              Message& into) {
  const Reflection& reflection = *into.GetReflection();
  for (int i = 0; i < reflection.FieldSize(from, &field); ++i) {
    const Message& entry = reflection.GetRepeatedMessage(from, &field, i);
    Message* target = nullptr;
    for (int j = 0; j < reflection.FieldSize(into, &field) && target == nullptr; ++j) {
      if (MapKey(reflection.GetRepeatedMessage(into, &field, j)) == MapKey(entry)) {
        target = reflection.MutableRepeatedMessage(&into, &field, j);
      }
    }
    if (target == nullptr) {
      target = reflection.AddMessage(&into, &field);
    }
    MergeMentioned(entry, *mentioned.GetTreeForNested(&field, i), *target);
  }
}

void CopyRepeated(const Message& from, const FieldDescriptor& field, Message& into) {
  // A message with only that field, so that protobuf's own merge can append it to nothing.
  std::unique_ptr<Message> only(from.New());
  only->CopyFrom(from);
  std::vector<const FieldDescriptor*> set;
  from.GetReflection()->ListFields(from, &set);
  for (const FieldDescriptor* other : set) {
    if (other != &field) {
      only->GetReflection()->ClearField(only.get(), other);
    }
  }
  into.GetReflection()->ClearField(&into, &field);
  into.MergeFrom(*only);
}

void CopyScalar(const Message& from, const FieldDescriptor& field, Message& into) {
  const Reflection& reflection = *into.GetReflection();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return reflection.SetInt32(&into, &field, reflection.GetInt32(from, &field));
    case FieldDescriptor::CPPTYPE_INT64:
      return reflection.SetInt64(&into, &field, reflection.GetInt64(from, &field));
    case FieldDescriptor::CPPTYPE_UINT32:
      return reflection.SetUInt32(&into, &field, reflection.GetUInt32(from, &field));
    case FieldDescriptor::CPPTYPE_UINT64:
      return reflection.SetUInt64(&into, &field, reflection.GetUInt64(from, &field));
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return reflection.SetDouble(&into, &field, reflection.GetDouble(from, &field));
    case FieldDescriptor::CPPTYPE_FLOAT:
      return reflection.SetFloat(&into, &field, reflection.GetFloat(from, &field));
    case FieldDescriptor::CPPTYPE_BOOL:
      return reflection.SetBool(&into, &field, reflection.GetBool(from, &field));
    case FieldDescriptor::CPPTYPE_ENUM:
      return reflection.SetEnumValue(&into, &field, reflection.GetEnumValue(from, &field));
    case FieldDescriptor::CPPTYPE_STRING:
      return reflection.SetString(&into, &field, reflection.GetString(from, &field));
    case FieldDescriptor::CPPTYPE_MESSAGE:
      break;  // the caller descends
  }
}

void MergeMentioned(const Message& from, const TextFormat::ParseInfoTree& mentioned, Message& into) {
  const Descriptor& type = *from.GetDescriptor();
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    if (mentioned.GetLocation(&field, field.is_repeated() ? 0 : -1).line < 0) {
      continue;
    }
    if (field.is_map()) {
      MergeMap(from, mentioned, field, into);
    } else if (field.is_repeated()) {
      CopyRepeated(from, field, into);
    } else if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      MergeMentioned(from.GetReflection()->GetMessage(from, &field), *mentioned.GetTreeForNested(&field, -1),
                     *into.GetReflection()->MutableMessage(&into, &field));
    } else {
      CopyScalar(from, field, into);
    }
  }
}

std::string Quoted(absl::string_view value) {
  value = absl::StripAsciiWhitespace(value);
  if (!value.empty() && (value[0] == '"' || value[0] == '\'')) {
    return std::string(value);
  }
  return absl::StrCat("\"", absl::CEscape(value), "\"");
}

// The value of an override as text format wants it.
absl::StatusOr<std::string> ValueText(const FieldDescriptor& field, absl::string_view value, absl::string_view what) {
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
    if (!absl::StartsWith(value, "{") && !absl::StartsWith(value, "[")) {
      return MakeError(ErrorKind::kRequest,
                       absl::StrCat(what, ": \"", field.name(), "\" is a ", field.message_type()->name(),
                                    "; set {...} or one of its fields: ", FieldNames(*field.message_type())));
    }
    return absl::StrCat(field.name(), " ", value);
  }
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_ENUM &&
      field.enum_type()->FindValueByName(std::string(value)) == nullptr) {
    return MakeError(ErrorKind::kRequest, absl::StrCat(what, ": \"", field.name(), "\" is one of ",
                                                       ValueNames(*field.enum_type()), ", not \"", value, "\""));
  }
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
    if (field.is_repeated() && absl::StartsWith(value, "[") && absl::EndsWith(value, "]")) {
      std::vector<std::string> elements;
      for (const absl::string_view element :
           absl::StrSplit(value.substr(1, value.size() - 2), ',', absl::SkipWhitespace())) {
        elements.push_back(Quoted(element));
      }
      return absl::StrCat(field.name(), ": [", absl::StrJoin(elements, ", "), "]");
    }
    return absl::StrCat(field.name(), ": ", Quoted(value));
  }
  // Otherwise "steps=1 seed: 2" would set two fields.
  if (!absl::StartsWith(value, "[") && value.find_first_of(" \t\n:;,{}#") != absl::string_view::npos) {
    return MakeError(ErrorKind::kRequest,
                     absl::StrCat(what, ": \"", field.name(), "\" takes one value, not \"", value, "\""));
  }
  return absl::StrCat(field.name(), ": ", value);
}

// keys[0] is a field of `type`, keys[1] one of that, and so on.
absl::StatusOr<std::string> AssignmentText(const Descriptor& type, absl::Span<const std::string> keys,
                                           absl::string_view value, absl::string_view what) {
  const FieldDescriptor* field = type.FindFieldByName(keys[0]);
  if (field == nullptr) {
    return MakeError(ErrorKind::kRequest, absl::StrCat(what, ": no field \"", keys[0], "\" in ", type.name(),
                                                       ", which has ", FieldNames(type)));
  }
  if (keys.size() == 1) {
    return ValueText(*field, value, what);
  }
  if (field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) {
    return MakeError(ErrorKind::kRequest,
                     absl::StrCat(what, ": \"", keys[0], "\" is a plain value and has no field \"", keys[1], "\""));
  }
  if (field->is_map()) {
    const FieldDescriptor& entry_value = *field->message_type()->map_value();
    std::string inner;
    if (keys.size() == 2) {
      WAYPOINT_ASSIGN_OR_RETURN(inner, ValueText(entry_value, value, what));
    } else {
      if (entry_value.cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) {
        return MakeError(ErrorKind::kRequest,
                         absl::StrCat(what, ": \"", keys[1], "\" is a plain value and has no field \"", keys[2], "\""));
      }
      WAYPOINT_ASSIGN_OR_RETURN(inner, AssignmentText(*entry_value.message_type(), keys.subspan(2), value, what));
      inner = absl::StrCat("value { ", inner, " }");
    }
    return absl::StrCat(field->name(), " { key: ", Quoted(keys[1]), " ", inner, " }");
  }
  if (field->is_repeated()) {
    return MakeError(ErrorKind::kRequest,
                     absl::StrCat(what, ": \"", keys[0], "\" is a list; set it as a whole, [{...}, {...}]"));
  }
  WAYPOINT_ASSIGN_OR_RETURN(const std::string inner,
                            AssignmentText(*field->message_type(), keys.subspan(1), value, what));
  return absl::StrCat(field->name(), " { ", inner, " }");
}

}  // namespace

absl::Status ConfigLayers::AddText(absl::string_view text, absl::string_view what) {
  Layer layer;
  layer.config = absl::make_unique<TrainConfig>();
  layer.mentioned = absl::make_unique<TextFormat::ParseInfoTree>();
  WAYPOINT_RETURN_IF_ERROR(ParseText(text, what, ErrorKind::kRequest, *layer.config, layer.mentioned.get()));
  layers_.push_back(std::move(layer));
  return absl::OkStatus();
}

absl::Status ConfigLayers::AddFile(FileSystem& fs, const std::string& path) {
  WAYPOINT_ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(fs, path, kConfigFileBytes, "config_file_bytes"));
  return AddText(text, absl::StrCat("\"", path, "\""));
}

absl::Status ConfigLayers::AddOverride(absl::string_view assignment) {
  const std::string what = absl::StrCat("override \"", assignment, "\"");
  const size_t equals = assignment.find('=');
  const absl::string_view key = absl::StripAsciiWhitespace(assignment.substr(0, equals));
  const std::vector<std::string> keys = absl::StrSplit(key, '.');
  if (equals == absl::string_view::npos ||
      std::any_of(keys.begin(), keys.end(), [](const std::string& part) { return part.empty(); })) {
    return MakeError(ErrorKind::kRequest, absl::StrCat(what, ": wanted key.sub=value"));
  }
  const absl::string_view value = absl::StripAsciiWhitespace(assignment.substr(equals + 1));
  WAYPOINT_ASSIGN_OR_RETURN(const std::string text, AssignmentText(*TrainConfig::descriptor(), keys, value, what));
  return AddText(text, what);
}

TrainConfig ConfigLayers::Merged(const TrainConfig& base) const {
  TrainConfig merged = base;
  for (const Layer& layer : layers_) {
    MergeMentioned(*layer.config, *layer.mentioned, merged);
  }
  return merged;
}

std::string PrintConfig(const Message& config) {
  std::string text;
  TextFormat::PrintToString(config, &text);
  return text;
}

absl::StatusOr<TrainConfig> ParsePrintedConfig(absl::string_view text, absl::string_view what) {
  TrainConfig config;
  WAYPOINT_RETURN_IF_ERROR(ParseText(text, what, ErrorKind::kSchema, config, nullptr));
  return config;
}

}  // namespace waypoint::engine
