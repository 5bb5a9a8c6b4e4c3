#include "checkpoint/base/ranges.h"

#include <cmath>
#include <memory>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/range.pb.h"
#include "google/protobuf/any.pb.h"
#include "google/protobuf/descriptor.h"

namespace waypoint {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

// Exact for whole numbers, short for the rest.
std::string NumberText(double value) {
  const bool whole = std::abs(value) < 9.2e18 && value == std::floor(value);
  return whole ? absl::StrCat(static_cast<int64_t>(value)) : absl::StrCat(value);
}

// Where the walk is.  Paths are spelled out only for what is wrong: manifests have millions of numbers.
struct Step {
  const FieldDescriptor* field;
  int index;  // -1: the field is one value
};

class Walker {
 public:
  explicit Walker(size_t limit) : limit_(limit) {}

  void Visit(const Message& message) {
    if (message.GetDescriptor() == google::protobuf::Any::descriptor()) {
      VisitAny(static_cast<const google::protobuf::Any&>(message));
      return;
    }
    // Only what is set: a number without presence is there unless it is 0.
    std::vector<const FieldDescriptor*> fields;
    message.GetReflection()->ListFields(message, &fields);
    for (const FieldDescriptor* field : fields) {
      const int size = field->is_repeated() ? message.GetReflection()->FieldSize(message, field) : 1;
      for (int i = 0; i < size && found_.size() < limit_; ++i) {
        path_.push_back({field, field->is_repeated() ? i : -1});
        if (field->is_map()) {
          VisitEntry(message.GetReflection()->GetRepeatedMessage(message, field, i), *field);
        } else {
          VisitValue(message, *field, *field, path_.back().index);
        }
        path_.pop_back();
      }
    }
  }

  std::vector<OutOfRange> TakeFound() { return std::move(found_); }

 private:
  void VisitAny(const google::protobuf::Any& any) {
    const std::string name = any.type_url().substr(any.type_url().rfind('/') + 1);
    const Descriptor* type = google::protobuf::DescriptorPool::generated_pool()->FindMessageTypeByName(name);
    if (type == nullptr) {
      return;  // nothing here computes with it
    }
    const std::unique_ptr<Message> message(
        google::protobuf::MessageFactory::generated_factory()->GetPrototype(type)->New());
    if (any.UnpackTo(message.get())) {
      Visit(*message);
    } else {
      Add("bytes that are none", absl::StrCat("a message ", name));
    }
  }

  void VisitEntry(const Message& entry, const FieldDescriptor& map) {
    const FieldDescriptor& key = *map.message_type()->map_key();
    if (key.cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
      keys_.push_back(entry.GetReflection()->GetString(entry, &key));
    }
    VisitValue(entry, *map.message_type()->map_value(), map, -1);
    if (key.cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
      keys_.pop_back();
    }
  }

  // `options`: the field whose range it is, the map of a map's value.  `index` -1: the field is one value.
  void VisitValue(const Message& message, const FieldDescriptor& field, const FieldDescriptor& options, int index) {
    const Reflection& from = *message.GetReflection();
    const bool one = index < 0;
    switch (field.cpp_type()) {
      case FieldDescriptor::CPPTYPE_INT32:
        return Number(one ? from.GetInt32(message, &field) : from.GetRepeatedInt32(message, &field, index), options);
      case FieldDescriptor::CPPTYPE_INT64:
        return Number(one ? from.GetInt64(message, &field) : from.GetRepeatedInt64(message, &field, index), options);
      case FieldDescriptor::CPPTYPE_UINT32:
        return Number(one ? from.GetUInt32(message, &field) : from.GetRepeatedUInt32(message, &field, index), options);
      case FieldDescriptor::CPPTYPE_UINT64:
        return Number(one ? from.GetUInt64(message, &field) : from.GetRepeatedUInt64(message, &field, index), options);
      case FieldDescriptor::CPPTYPE_DOUBLE:
        return Number(one ? from.GetDouble(message, &field) : from.GetRepeatedDouble(message, &field, index), options);
      case FieldDescriptor::CPPTYPE_FLOAT:
        return Number(one ? from.GetFloat(message, &field) : from.GetRepeatedFloat(message, &field, index), options);
      case FieldDescriptor::CPPTYPE_ENUM: {
        const int value = one ? from.GetEnumValue(message, &field) : from.GetRepeatedEnumValue(message, &field, index);
        if (field.enum_type()->FindValueByNumber(value) == nullptr) {
          Add(absl::StrCat(value), absl::StrCat("a value of ", field.enum_type()->full_name()));
        }
        return;
      }
      case FieldDescriptor::CPPTYPE_MESSAGE:
        return Visit(one ? from.GetMessage(message, &field) : from.GetRepeatedMessage(message, &field, index));
      case FieldDescriptor::CPPTYPE_BOOL:
      case FieldDescriptor::CPPTYPE_STRING:
        return;
    }
  }

  template <typename T>
  void Number(T value, const FieldDescriptor& options) {
    const Range& range = options.options().GetExtension(waypoint::range);
    const auto real = static_cast<double>(value);
    if (range.any() || (real >= range.min() && real <= range.max())) {
      return;
    }
    Add(absl::StrCat(value), options.options().HasExtension(waypoint::range)
                                 ? absl::StrCat(NumberText(range.min()), " to ", NumberText(range.max()))
                                 : "a range, which the field does not state");
  }

  void Add(std::string value, std::string wanted) {
    std::string path;
    size_t key = 0;
    for (const Step& step : path_) {
      absl::StrAppend(&path, path.empty() ? "" : ".", step.field->name());
      if (step.field->is_map() && key < keys_.size()) {
        absl::StrAppend(&path, "[\"", absl::Utf8SafeCEscape(keys_[key++]), "\"]");
      } else if (step.index >= 0) {
        absl::StrAppend(&path, "[", step.index, "]");
      }
    }
    found_.push_back({std::move(path), std::move(value), std::move(wanted)});
  }

  const size_t limit_;
  std::vector<Step> path_;
  std::vector<std::string> keys_;  // of the maps on the path
  std::vector<OutOfRange> found_;
};

}  // namespace

std::vector<OutOfRange> FindOutOfRange(const Message& message, size_t limit) {
  Walker walker(limit);
  walker.Visit(message);
  return walker.TakeFound();
}

absl::Status CheckRanges(const Message& message, absl::string_view what, ErrorKind kind) {
  std::string text;
  for (const OutOfRange& wrong : FindOutOfRange(message)) {
    absl::StrAppend(&text, text.empty() ? "" : "; ", wrong.path, " is ", wrong.value, ", wanted ", wrong.wanted);
  }
  return text.empty() ? absl::OkStatus() : MakeError(kind, absl::StrCat(what, ": ", text));
}

}  // namespace waypoint
