// CompareArchitecture: a walk over two messages of one type.
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "checkpoint/convert/config/options.pb.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"
#include "google/protobuf/text_format.h"
#include "models/decoder/parameters.h"

namespace waypoint::models {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

// Field `index` of a repeated field, or the field itself when index is -1.
std::string ValueText(const Message& message, const FieldDescriptor& field, int index) {
  const Reflection& reflection = *message.GetReflection();
  const bool repeated = index >= 0;
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL: {
      const bool value =
          repeated ? reflection.GetRepeatedBool(message, &field, index) : reflection.GetBool(message, &field);
      return value ? "true" : "false";
    }
    case FieldDescriptor::CPPTYPE_STRING:
      return absl::StrCat(
          "\"", repeated ? reflection.GetRepeatedString(message, &field, index) : reflection.GetString(message, &field),
          "\"");
    case FieldDescriptor::CPPTYPE_INT64:
      return absl::StrCat(repeated ? reflection.GetRepeatedInt64(message, &field, index)
                                   : reflection.GetInt64(message, &field));
    default: {
      // All digits of a double and names of enums: protobuf's text form has them.
      std::string text;
      google::protobuf::TextFormat::PrintFieldValueToString(message, &field, index, &text);
      return text;
    }
  }
}

void CompareMessages(const Message& a, const Message& b, const std::string& prefix, std::vector<std::string>* out);

void CompareMaps(const Message& a, const Message& b, const FieldDescriptor& field, const std::string& path,
                 std::vector<std::string>* out) {
  const FieldDescriptor& key = *field.message_type()->map_key();
  const FieldDescriptor& value = *field.message_type()->map_value();
  const auto entries = [&](const Message& message) {
    std::map<std::string, const Message*> result;
    for (int i = 0; i < message.GetReflection()->FieldSize(message, &field); ++i) {
      const Message& entry = message.GetReflection()->GetRepeatedMessage(message, &field, i);
      result.emplace(ValueText(entry, key, -1), &entry);
    }
    return result;
  };
  const auto entries_a = entries(a);
  const auto entries_b = entries(b);
  for (const auto& [name, entry] : entries_a) {
    const std::string entry_path = absl::StrCat(path, "[", name, "]");
    const auto other = entries_b.find(name);
    if (other == entries_b.end()) {
      out->push_back(absl::StrCat(entry_path, ": set != unset"));
    } else if (value.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      CompareMessages(entry->GetReflection()->GetMessage(*entry, &value),
                      other->second->GetReflection()->GetMessage(*other->second, &value), entry_path, out);
    } else if (ValueText(*entry, value, -1) != ValueText(*other->second, value, -1)) {
      out->push_back(
          absl::StrCat(entry_path, ": ", ValueText(*entry, value, -1), " != ", ValueText(*other->second, value, -1)));
    }
  }
  for (const auto& [name, entry] : entries_b) {
    if (entries_a.count(name) == 0) {
      out->push_back(absl::StrCat(path, "[", name, "]: unset != set"));
    }
  }
}

void CompareRepeated(const Message& a, const Message& b, const FieldDescriptor& field, const std::string& path,
                     std::vector<std::string>* out) {
  const int size_a = a.GetReflection()->FieldSize(a, &field);
  const int size_b = b.GetReflection()->FieldSize(b, &field);
  if (size_a != size_b) {
    out->push_back(absl::StrCat(path, ": ", size_a, " entries != ", size_b, " entries"));
    return;
  }
  for (int i = 0; i < size_a; ++i) {
    const std::string entry_path = absl::StrCat(path, "[", i, "]");
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      CompareMessages(a.GetReflection()->GetRepeatedMessage(a, &field, i),
                      b.GetReflection()->GetRepeatedMessage(b, &field, i), entry_path, out);
    } else if (ValueText(a, field, i) != ValueText(b, field, i)) {
      out->push_back(absl::StrCat(entry_path, ": ", ValueText(a, field, i), " != ", ValueText(b, field, i)));
    }
  }
}

void CompareField(const Message& a, const Message& b, const FieldDescriptor& field, const std::string& path,
                  std::vector<std::string>* out) {
  if (field.is_map()) {
    CompareMaps(a, b, field, path, out);
    return;
  }
  if (field.is_repeated()) {
    CompareRepeated(a, b, field, path, out);
    return;
  }
  const bool has_presence = field.has_presence();
  const bool has_a = !has_presence || a.GetReflection()->HasField(a, &field);
  const bool has_b = !has_presence || b.GetReflection()->HasField(b, &field);
  const bool is_message = field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
  if (has_a && has_b && is_message) {
    CompareMessages(a.GetReflection()->GetMessage(a, &field), b.GetReflection()->GetMessage(b, &field), path, out);
    return;
  }
  const auto text = [&](const Message& message, bool has) -> std::string {
    return !has ? "unset" : is_message ? "set" : ValueText(message, field, -1);
  };
  if ((has_a || has_b) && text(a, has_a) != text(b, has_b)) {
    out->push_back(absl::StrCat(path, ": ", text(a, has_a), " != ", text(b, has_b)));
  }
}

void CompareMessages(const Message& a, const Message& b, const std::string& prefix, std::vector<std::string>* out) {
  const google::protobuf::Descriptor& type = *a.GetDescriptor();
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    // A field that does not say so counts: a false alarm is better than a silent difference.
    const auto& options = field.options();
    if (options.HasExtension(waypoint::architecture) && !options.GetExtension(waypoint::architecture)) {
      continue;
    }
    CompareField(a, b, field, prefix.empty() ? field.name() : absl::StrCat(prefix, ".", field.name()), out);
  }
}

}  // namespace

std::vector<std::string> CompareArchitecture(const DecoderConfig& a, const DecoderConfig& b) {
  std::vector<std::string> differences;
  CompareMessages(a, b, "", &differences);
  return differences;
}

}  // namespace waypoint::models
