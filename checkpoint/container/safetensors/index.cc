#include "checkpoint/container/safetensors/index.h"

#include <cmath>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "checkpoint/base/checked_math.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/file_name.h"
#include "checkpoint/base/status_macros.h"

namespace waypoint {
namespace {

constexpr absl::string_view kMetadataKey = "metadata";
constexpr absl::string_view kMapKey = "weight_map";
// Beyond 2^53 not every integer is a double.
constexpr double kMaxExactDouble = 9007199254740992.0;

// A wrong field does not stop the parse: the rest must still be JSON, and the kinds of error have an order.
class IndexEvents final : public JsonEvents {
 public:
  IndexEvents(absl::string_view path, absl::string_view extension, const Limits& limits, SafetensorsIndex* index)
      : path_(path), extension_(extension), limits_(limits), index_(index) {}

  // After the parse.
  absl::Status Finish() {
    WAYPOINT_RETURN_IF_ERROR(schema_);
    if (!has_map_) {
      return MakeError(ErrorKind::kSchema, absl::StrCat(QuotedPath(path_), ": has no weight_map"));
    }
    if (metadata_.complete()) {
      index_->metadata = metadata_.Take();
    }
    WAYPOINT_RETURN_IF_ERROR(ReadTotal());
    WAYPOINT_RETURN_IF_ERROR(name_);
    if (index_->places.empty()) {
      return MakeError(ErrorKind::kMissing, absl::StrCat(QuotedPath(path_), ": weight_map names no tensor"));
    }
    return absl::OkStatus();
  }

  absl::Status StartObject() override {
    if (at_ == At::kMetadata) {
      ++open_;
      return metadata_.StartObject();
    }
    if (open_ > 0) {
      ++open_;
    } else if (at_ == At::kStart) {
      at_ = At::kRoot;
    } else if (at_ == At::kRoot && key_ == kMetadataKey) {
      at_ = At::kMetadata;
      open_ = 1;
      return metadata_.StartObject();
    } else if (at_ == At::kRoot && key_ == kMapKey) {
      at_ = At::kMap;
      has_map_ = true;
    } else {
      return Skip("an object");
    }
    return absl::OkStatus();
  }

  absl::Status Key(std::string& key) override {
    if (at_ == At::kMetadata) {
      return metadata_.Key(key);
    }
    if (open_ > 0) {
      return absl::OkStatus();
    }
    if (at_ == At::kMap && static_cast<int64_t>(key.size()) > limits_.tensor_name_bytes) {
      return MakeError(ErrorKind::kLimit, absl::StrCat(QuotedPath(path_), ": tensor name ", Quoted(key),
                                                       " is over tensor_name_bytes = ", limits_.tensor_name_bytes));
    }
    key_ = std::move(key);
    return absl::OkStatus();
  }

  absl::Status EndObject() override {
    if (at_ == At::kMetadata) {
      WAYPOINT_RETURN_IF_ERROR(metadata_.EndObject());
      at_ = --open_ == 0 ? At::kRoot : At::kMetadata;
    } else if (open_ > 0) {
      --open_;
    } else if (at_ == At::kMap) {
      at_ = At::kRoot;
    }
    return absl::OkStatus();
  }

  absl::Status StartArray() override {
    if (open_ == 0) {
      return Skip("an array");
    }
    ++open_;
    return at_ == At::kMetadata ? metadata_.StartArray() : absl::OkStatus();
  }

  absl::Status EndArray() override {
    --open_;
    return at_ == At::kMetadata ? metadata_.EndArray() : absl::OkStatus();
  }

  absl::Status String(std::string& value) override {
    if (at_ == At::kMap && open_ == 0) {
      return AddPlace(value);
    }
    return at_ == At::kMetadata ? metadata_.String(value) : WrongType("a string");
  }
  absl::Status Integer(int64_t value) override {
    return at_ == At::kMetadata ? metadata_.Integer(value) : WrongType("a number");
  }
  absl::Status Unsigned(uint64_t value) override {
    return at_ == At::kMetadata ? metadata_.Unsigned(value) : WrongType("a number");
  }
  absl::Status Float(double value, const std::string& text) override {
    return at_ == At::kMetadata ? Annotate(metadata_.Float(value, text), QuotedPath(path_)) : WrongType("a number");
  }
  absl::Status Bool(bool value) override {
    return at_ == At::kMetadata ? metadata_.Bool(value) : WrongType("a boolean");
  }
  absl::Status Null() override { return at_ == At::kMetadata ? metadata_.Null() : WrongType("null"); }

 private:
  enum class At { kStart, kRoot, kMetadata, kMap };

  absl::Status Skip(absl::string_view got) {
    const absl::Status status = WrongType(got);
    open_ = 1;
    return status;
  }

  absl::Status WrongType(absl::string_view got) {
    std::string problem;
    if (open_ > 0) {
      return absl::OkStatus();
    } else if (at_ == At::kStart) {
      problem = absl::StrCat("index is ", got, ", must be an object");
    } else if (at_ == At::kRoot && (key_ == kMetadataKey || key_ == kMapKey)) {
      problem = absl::StrCat(key_, " is ", got, ", must be an object");
    } else if (at_ == At::kMap) {
      problem = absl::StrCat("weight_map: tensor ", Quoted(key_), " is ", got, ", must be a file name");
    }
    if (!problem.empty() && schema_.ok()) {
      schema_ = MakeError(ErrorKind::kSchema, absl::StrCat(QuotedPath(path_), ": ", problem));
    }
    return absl::OkStatus();
  }

  absl::Status AddPlace(std::string& file) {
    if (static_cast<int64_t>(index_->places.size()) >= limits_.index_tensors) {
      return MakeError(ErrorKind::kLimit,
                       absl::StrCat(QuotedPath(path_), ": more tensors than index_tensors = ", limits_.index_tensors));
    }
    const auto [it, inserted] = file_numbers_.try_emplace(std::move(file), static_cast<int>(index_->files.size()));
    if (inserted) {
      if (static_cast<int64_t>(index_->files.size()) >= limits_.shard_files) {
        return MakeError(ErrorKind::kLimit,
                         absl::StrCat(QuotedPath(path_), ": more files than shard_files = ", limits_.shard_files));
      }
      if (name_.ok() && !(IsPlainFileName(it->first) && absl::EndsWith(it->first, extension_))) {
        name_ = MakeError(
            ErrorKind::kPath,
            absl::StrCat(QuotedPath(path_), ": tensor ", Quoted(key_), " is said to be in ", Quoted(it->first),
                         ", which is no plain file name of letters, digits, '.', '_' and '-' that ends in ",
                         extension_));
      }
      index_->files.push_back(it->first);
    }
    index_->places.push_back({std::move(key_), it->second});
    return absl::OkStatus();
  }

  absl::Status ReadTotal() {
    const auto total = index_->metadata.find("total_size");
    if (total == index_->metadata.end()) {
      return absl::OkStatus();
    }
    int64_t bytes = 0;
    bool whole = false;
    if (total->is_number_unsigned()) {
      whole = CheckedToInt64(total->get<uint64_t>(), &bytes);
    } else if (total->is_number_float()) {
      // Sums that were made with floats are in files of real models.
      const double value = total->get<double>();
      whole = value >= 0 && value <= kMaxExactDouble && std::floor(value) == value;
      bytes = whole ? static_cast<int64_t>(value) : 0;
    }
    if (!whole) {
      return MakeError(ErrorKind::kSchema, absl::StrCat(QuotedPath(path_), ": total_size is ",
                                                        Quoted(total->is_structured() ? "a structure" : total->dump()),
                                                        ", must be a number of bytes"));
    }
    index_->total_bytes = bytes;
    return absl::OkStatus();
  }

  const absl::string_view path_;
  const absl::string_view extension_;
  const Limits& limits_;
  SafetensorsIndex* const index_;

  At at_ = At::kStart;
  int64_t open_ = 0;  // open containers of metadata, or of a value that is not looked at
  std::string key_;
  bool has_map_ = false;
  JsonTreeBuilder metadata_;
  absl::flat_hash_map<std::string, int> file_numbers_;
  absl::Status schema_;
  absl::Status name_;
};

Json Sorted(const Json& value) {
  if (value.is_array()) {
    Json array = Json::array();
    for (const Json& element : value) {
      array.push_back(Sorted(element));
    }
    return array;
  }
  if (!value.is_object()) {
    return value;
  }
  std::map<std::string, Json> members;
  for (const auto& [key, member] : value.items()) {
    members.emplace(key, Sorted(member));
  }
  Json object = Json::object();
  for (auto& [key, member] : members) {
    object.get_ref<Json::object_t&>().emplace_back(key, std::move(member));
  }
  return object;
}

// Python's ensure_ascii on JSON text: bytes past ASCII occur inside of strings only.
std::string EscapeNonAscii(absl::string_view json) {
  std::string out;
  out.reserve(json.size());
  for (size_t i = 0; i < json.size();) {
    const auto byte = static_cast<unsigned char>(json[i]);
    const int length = byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
    uint32_t code = length == 1 ? byte : byte & (0xFF >> (length + 1));
    for (int tail = 1; tail < length && i + tail < json.size(); ++tail) {
      code = code << 6 | (static_cast<unsigned char>(json[i + tail]) & 0x3F);
    }
    if (code < 0x7F) {
      out.push_back(json[i]);
    } else if (code < 0x10000) {
      absl::StrAppendFormat(&out, "\\u%04x", code);
    } else {
      absl::StrAppendFormat(&out, "\\u%04x\\u%04x", 0xD800 + ((code - 0x10000) >> 10), 0xDC00 + (code & 0x3FF));
    }
    i += length;
  }
  return out;
}

}  // namespace

absl::StatusOr<SafetensorsIndex> ParseSafetensorsIndex(absl::string_view text, absl::string_view path,
                                                       const Limits& limits, absl::string_view extension) {
  SafetensorsIndex index;
  IndexEvents events(path, extension, limits, &index);
  WAYPOINT_RETURN_IF_ERROR(ParseJsonEvents(text, QuotedPath(path), limits, events));
  WAYPOINT_RETURN_IF_ERROR(events.Finish());
  return index;
}

std::string BuildSafetensorsIndex(const std::map<std::string, std::string>& weight_map, const Json& metadata) {
  Json map = Json::object();
  auto& members = map.get_ref<Json::object_t&>();
  members.reserve(weight_map.size());
  for (const auto& [tensor, file] : weight_map) {
    members.emplace_back(tensor, file);
  }
  Json root = Json::object();
  root[std::string(kMetadataKey)] = Sorted(metadata);
  root[std::string(kMapKey)] = std::move(map);
  return EscapeNonAscii(DumpJson(root));
}

}  // namespace waypoint
