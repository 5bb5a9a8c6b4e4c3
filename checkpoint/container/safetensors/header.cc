#include "checkpoint/container/safetensors/header.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "checkpoint/base/checked_math.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/json.h"
#include "checkpoint/base/status_macros.h"

namespace waypoint {
namespace {

constexpr int64_t kPrefixBytes = 8;
// Enough of a file to tell what it is instead.
constexpr int64_t kSignatureBytes = 64;
constexpr absl::string_view kMetadataKey = "__metadata__";

uint64_t ReadLittleEndian(absl::string_view bytes) {
  uint64_t value = 0;
  for (int i = kPrefixBytes - 1; i >= 0; --i) {
    value = value << 8 | static_cast<unsigned char>(bytes[i]);
  }
  return value;
}

// What a file with these first bytes is, or empty.  A real safetensors file may begin with any of them that is a
// plausible length, so the caller asks only when the length or what follows it is not.
absl::string_view OtherKind(absl::string_view start) {
  using absl::StartsWith;
  if (StartsWith(start, "version https://git-lfs")) {
    return "a git-lfs pointer; fetch the real file with \"git lfs pull\"";
  }
  if (absl::StartsWithIgnoreCase(start, "<!doctype") || absl::StartsWithIgnoreCase(start, "<html") ||
      StartsWith(start, "<?xml")) {
    return "a web page, probably an error page saved by a download; download the file again";
  }
  if (StartsWith(start, "PK\x03\x04") || StartsWith(start, "PK\x05\x06")) {
    return "a zip archive, probably a PyTorch .pth or .bin file under a wrong name";
  }
  if (start.size() > 1 && start[0] == '\x80' && start[1] >= 2 && start[1] <= 5) {
    return "a Python pickle, which is never loaded";
  }
  if (StartsWith(start, "GGUF")) {
    return "a GGUF file";
  }
  if (StartsWith(start,
                 "\x7F"
                 "ELF")) {
    return "an ELF executable";
  }
  if (StartsWith(start, "\x1F\x8B")) {
    return "gzip-compressed; decompress it first";
  }
  if (StartsWith(start, "\x28\xB5\x2F\xFD")) {
    return "zstd-compressed; decompress it first";
  }
  if (StartsWith(start, "\x89HDF")) {
    return "an HDF5 file";
  }
  if (StartsWith(start, "\x93NUMPY")) {
    return "a NumPy array";
  }
  if (StartsWith(start, "{")) {
    return "JSON text";
  }
  return "";
}

// Checks the length field and what follows it.  `start` is the first bytes of the file: kSignatureBytes or all.
absl::StatusOr<int64_t> CheckPrefix(absl::string_view start, int64_t file_bytes, absl::string_view path,
                                    const Limits& limits) {
  const auto is_space = [](char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; };
  if (start.size() < kPrefixBytes) {
    return MakeError(ErrorKind::kTruncated, absl::StrCat(QuotedPath(path), ": file has ", file_bytes,
                                                         " bytes, the length of a safetensors header alone has 8"));
  }
  const uint64_t declared = ReadLittleEndian(start);
  const bool over_limit = declared > static_cast<uint64_t>(limits.safetensors_header_bytes);
  if (over_limit || (start.size() > kPrefixBytes && start[kPrefixBytes] != '{' && !is_space(start[kPrefixBytes]))) {
    if (const absl::string_view kind = OtherKind(start); !kind.empty()) {
      return MakeError(ErrorKind::kHeader, absl::StrCat(QuotedPath(path), ": no safetensors file but ", kind));
    }
  }
  if (over_limit) {
    return MakeError(ErrorKind::kLimit,
                     absl::StrCat(QuotedPath(path), ": header length at offset 0 is ", declared,
                                  ", over safetensors_header_bytes = ", limits.safetensors_header_bytes));
  }
  const int64_t header_bytes = static_cast<int64_t>(declared);
  if (header_bytes > file_bytes - kPrefixBytes) {
    return MakeError(ErrorKind::kTruncated,
                     absl::StrCat(QuotedPath(path), ": header should end at ", kPrefixBytes + header_bytes,
                                  ", the file has ", file_bytes, " bytes"));
  }
  return header_bytes;
}

// Builds the entries from JSON events.  begin and end are relative to the data here.
//
// A wrong field does not stop the parse: the rest must still be JSON, and the kinds of error have an order.
class HeaderEvents final : public JsonEvents {
 public:
  HeaderEvents(absl::string_view path, const Limits& limits, SafetensorsHeader* header)
      : path_(path), limits_(limits), header_(header) {}

  // After the parse.
  absl::Status FirstError() const { return !schema_.ok() ? schema_ : !dtype_.ok() ? dtype_ : overflow_; }

  absl::Status StartObject() override {
    if (skipped_ > 0) {
      ++skipped_;
    } else if (at_ == At::kStart) {
      at_ = At::kRoot;
    } else if (at_ == At::kRoot) {
      return StartMember();
    } else {
      return Skip("an object");
    }
    return absl::OkStatus();
  }

  absl::Status Key(std::string& key) override {
    if (skipped_ > 0) {
      return absl::OkStatus();
    }
    if (at_ == At::kRoot && static_cast<int64_t>(key.size()) > limits_.tensor_name_bytes) {
      return MakeError(ErrorKind::kLimit, absl::StrCat(QuotedPath(path_), ": tensor name ", Quoted(key),
                                                       " is over tensor_name_bytes = ", limits_.tensor_name_bytes));
    }
    if (at_ == At::kEntry) {
      field_ = key == "dtype"          ? Field::kDType
               : key == "shape"        ? Field::kShape
               : key == "data_offsets" ? Field::kOffsets
                                       : Field::kUnknown;
      seen_ |= static_cast<int>(field_);
    }
    (at_ == At::kRoot ? member_ : key_) = std::move(key);
    return absl::OkStatus();
  }

  absl::Status EndObject() override {
    if (skipped_ > 0) {
      --skipped_;
    } else if (at_ == At::kEntry) {
      EndEntry();
      at_ = At::kRoot;
    } else if (at_ == At::kMetadata) {
      at_ = At::kRoot;
    }
    return absl::OkStatus();
  }

  absl::Status StartArray() override {
    if (skipped_ > 0) {
      ++skipped_;
    } else if (at_ == At::kEntry && field_ == Field::kShape) {
      at_ = At::kShape;
    } else if (at_ == At::kEntry && field_ == Field::kOffsets) {
      at_ = At::kOffsets;
    } else {
      return Skip("an array");
    }
    return absl::OkStatus();
  }

  absl::Status EndArray() override {
    if (skipped_ > 0) {
      --skipped_;
    } else {
      at_ = At::kEntry;
    }
    return absl::OkStatus();
  }

  absl::Status String(std::string& value) override {
    if (skipped_ > 0) {
      return absl::OkStatus();
    }
    if (at_ == At::kMetadata) {
      if (static_cast<int64_t>(header_->metadata.size()) >= limits_.safetensors_metadata_entries) {
        return MakeError(ErrorKind::kLimit,
                         absl::StrCat(QuotedPath(path_), ": more metadata than safetensors_metadata_entries = ",
                                      limits_.safetensors_metadata_entries));
      }
      header_->metadata.emplace(std::move(key_), std::move(value));
    } else if (at_ == At::kEntry && field_ == Field::kDType) {
      entry_.dtype = DTypeFromName(value);
      if (entry_.dtype == DType::kInvalid && dtype_.ok()) {
        dtype_ = MakeError(ErrorKind::kDType, absl::StrCat(Tensor(), "unknown dtype ", Quoted(value)));
      }
    } else {
      WrongType("a string");
    }
    return absl::OkStatus();
  }

  absl::Status Unsigned(uint64_t value) override {
    if (skipped_ > 0) {
      return absl::OkStatus();
    }
    if (at_ != At::kShape && at_ != At::kOffsets) {
      WrongType("a number");
      return absl::OkStatus();
    }
    int64_t number = 0;
    if (!CheckedToInt64(value, &number)) {
      Overflow(absl::StrCat(value));
    }
    return AddNumber(number);
  }

  // Negative by the contract of the events; -0 too.
  absl::Status Integer(int64_t value) override {
    WrongType(absl::StrCat("the negative number ", value));
    return absl::OkStatus();
  }

  absl::Status Float(double, const std::string& text) override {
    if (skipped_ > 0) {
      return absl::OkStatus();
    }
    const bool integer = text.find_first_of(".eE-") == std::string::npos;
    if (integer && (at_ == At::kShape || at_ == At::kOffsets)) {
      Overflow(Quoted(text));
      return AddNumber(0);
    }
    WrongType(absl::StrCat("the number ", Quoted(text)));
    return absl::OkStatus();
  }

  absl::Status Bool(bool) override {
    WrongType("a boolean");
    return absl::OkStatus();
  }

  absl::Status Null() override {
    WrongType("null");
    return absl::OkStatus();
  }

 private:
  enum class At { kStart, kRoot, kMetadata, kEntry, kShape, kOffsets };
  enum class Field { kUnknown = 0, kDType = 1, kShape = 2, kOffsets = 4 };
  static constexpr int kAllFields = 7;

  std::string Tensor() const { return absl::StrCat(QuotedPath(path_), ": tensor ", Quoted(member_), ": "); }

  void SchemaError(absl::string_view message) {
    if (schema_.ok()) {
      schema_ = MakeError(ErrorKind::kSchema, message);
    }
  }

  void Overflow(absl::string_view number) {
    if (overflow_.ok()) {
      overflow_ = MakeError(ErrorKind::kOverflow, absl::StrCat(Tensor(), at_ == At::kShape ? "dimension " : "offset ",
                                                               number, " does not fit 63 bits"));
    }
  }

  // A value that may not be where it is; what unknown fields hold is nobody's business.
  void WrongType(absl::string_view got) {
    if (skipped_ > 0) {
      return;
    }
    switch (at_) {
      case At::kStart:
        SchemaError(absl::StrCat(QuotedPath(path_), ": header is ", got, ", must be an object"));
        break;
      case At::kRoot:
        SchemaError(absl::StrCat(Tensor(), "is ", got, ", must be an object"));
        break;
      case At::kMetadata:
        SchemaError(
            absl::StrCat(QuotedPath(path_), ": __metadata__ ", Quoted(key_), " is ", got, ", must be a string"));
        break;
      case At::kEntry:
        if (field_ != Field::kUnknown) {
          SchemaError(absl::StrCat(Tensor(), key_, " is ", got, ", must be ",
                                   field_ == Field::kDType ? "a string" : "an array of non-negative integers"));
        }
        break;
      case At::kShape:
      case At::kOffsets:
        SchemaError(absl::StrCat(Tensor(), key_, " holds ", got, ", must hold non-negative integers"));
        break;
    }
  }

  absl::Status Skip(absl::string_view got) {
    WrongType(got);
    skipped_ = 1;
    return absl::OkStatus();
  }

  absl::Status StartMember() {
    if (member_ == kMetadataKey) {
      at_ = At::kMetadata;
      return absl::OkStatus();
    }
    if (static_cast<int64_t>(header_->entries.size()) >= limits_.safetensors_tensors) {
      return MakeError(
          ErrorKind::kLimit,
          absl::StrCat(QuotedPath(path_), ": more tensors than safetensors_tensors = ", limits_.safetensors_tensors));
    }
    if (member_.find('\0') != std::string::npos) {
      SchemaError(absl::StrCat(Tensor(), "the name holds a NUL"));
    }
    at_ = At::kEntry;
    entry_ = SafetensorsEntry();
    seen_ = 0;
    offsets_ = 0;
    return absl::OkStatus();
  }

  absl::Status AddNumber(int64_t number) {
    if (at_ == At::kShape) {
      if (static_cast<int64_t>(entry_.shape.size()) >= limits_.tensor_rank) {
        return MakeError(ErrorKind::kLimit,
                         absl::StrCat(Tensor(), "more dimensions than tensor_rank = ", limits_.tensor_rank));
      }
      if (++dimensions_ > limits_.safetensors_dimensions) {
        return MakeError(ErrorKind::kLimit,
                         absl::StrCat(Tensor(), "more dimensions in all than safetensors_dimensions = ",
                                      limits_.safetensors_dimensions));
      }
      entry_.shape.push_back(number);
    } else {
      (offsets_ == 0 ? entry_.begin : entry_.end) = number;
      ++offsets_;
    }
    return absl::OkStatus();
  }

  void EndEntry() {
    if (seen_ != kAllFields) {
      const int missing = kAllFields & ~seen_;
      SchemaError(absl::StrCat(Tensor(), "without ",
                               missing & static_cast<int>(Field::kDType)   ? "dtype"
                               : missing & static_cast<int>(Field::kShape) ? "shape"
                                                                           : "data_offsets"));
    } else if (offsets_ != 2) {
      SchemaError(absl::StrCat(Tensor(), "data_offsets has ", offsets_, " numbers, must have 2"));
    }
    entry_.name = std::move(member_);
    header_->entries.push_back(std::move(entry_));
  }

  const absl::string_view path_;
  const Limits& limits_;
  SafetensorsHeader* const header_;

  At at_ = At::kStart;
  int64_t skipped_ = 0;  // open containers of a value that is not looked at
  std::string member_;   // key of the header: a tensor's name
  std::string key_;      // key of the object in it
  Field field_ = Field::kUnknown;
  int seen_ = 0;
  int64_t offsets_ = 0;
  int64_t dimensions_ = 0;  // of all tensors so far
  SafetensorsEntry entry_;

  absl::Status schema_;
  absl::Status dtype_;
  absl::Status overflow_;
};

// Sorts the entries, checks that they cover data_bytes exactly, and makes their offsets those of the file.
absl::Status CheckEntries(absl::string_view path, int64_t data_bytes, SafetensorsHeader* header) {
  std::vector<SafetensorsEntry>& entries = header->entries;
  const auto before = [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  };
  if (!std::is_sorted(entries.begin(), entries.end(), before)) {
    std::sort(entries.begin(), entries.end(), before);
  }
  const auto tensor = [path](const SafetensorsEntry& entry) {
    return absl::StrCat(QuotedPath(path), ": tensor ", Quoted(entry.name));
  };

  absl::Status size_mismatch;
  for (const SafetensorsEntry& entry : entries) {
    const absl::StatusOr<int64_t> bytes = TensorBytes(entry.dtype, entry.shape);
    if (!bytes.ok()) {
      const absl::Status error = Annotate(bytes.status(), tensor(entry));
      if (GetErrorKind(error) == ErrorKind::kOverflow) {
        return error;
      }
      size_mismatch = size_mismatch.ok() ? error : size_mismatch;
    } else if (*bytes != entry.end - entry.begin && size_mismatch.ok()) {
      size_mismatch = MakeError(
          ErrorKind::kSizeMismatch,
          absl::StrCat(tensor(entry), ": ", ShapeString(entry.shape), " of ", DTypeName(entry.dtype), " has ", *bytes,
                       " bytes, data_offsets [", entry.begin, ", ", entry.end, "] give ", entry.end - entry.begin));
    }
  }

  int64_t end = 0;
  const SafetensorsEntry* previous = nullptr;
  for (const SafetensorsEntry& entry : entries) {
    if (entry.end < entry.begin) {
      return MakeError(ErrorKind::kOffsets, absl::StrCat(tensor(entry), ": data_offsets [", entry.begin, ", ",
                                                         entry.end, "] run backwards"));
    }
    if (entry.begin != end) {
      return MakeError(
          ErrorKind::kOffsets,
          absl::StrCat(tensor(entry), ": begins at ", entry.begin, ", ",
                       previous == nullptr ? "the first tensor must begin at 0"
                                           : absl::StrCat(entry.begin < end ? "inside " : "with a gap behind ",
                                                          Quoted(previous->name), ", which ends at ", end)));
    }
    end = entry.end;
    previous = &entry;
  }
  WAYPOINT_RETURN_IF_ERROR(size_mismatch);

  if (end > data_bytes) {
    return MakeError(ErrorKind::kTruncated,
                     absl::StrCat(tensor(*previous), ": ends at ", end, " of the data, the file has only ", data_bytes,
                                  " bytes of data (", header->file_bytes, " in all)"));
  }
  if (end < data_bytes) {
    return MakeError(ErrorKind::kTrailing,
                     absl::StrCat(QuotedPath(path), ": ", data_bytes - end, " bytes behind the last tensor, at offset ",
                                  header->data_begin + end));
  }
  for (SafetensorsEntry& entry : entries) {
    entry.begin += header->data_begin;  // fits: begin <= end <= data_bytes
    entry.end += header->data_begin;
  }
  return absl::OkStatus();
}

absl::StatusOr<SafetensorsHeader> ParseHeader(absl::string_view json, int64_t file_bytes, absl::string_view path,
                                              const Limits& limits) {
  SafetensorsHeader header;
  header.data_begin = kPrefixBytes + static_cast<int64_t>(json.size());
  header.file_bytes = file_bytes;
  HeaderEvents events(path, limits, &header);
  WAYPOINT_RETURN_IF_ERROR(ParseJsonEvents(json, absl::StrCat(QuotedPath(path), " header"), limits, events));
  WAYPOINT_RETURN_IF_ERROR(events.FirstError());
  WAYPOINT_RETURN_IF_ERROR(CheckEntries(path, file_bytes - header.data_begin, &header));
  return header;
}

}  // namespace

absl::StatusOr<SafetensorsHeader> ReadSafetensorsHeader(const ReadableFile& file, const Limits& limits) {
  const int64_t file_bytes = file.size_bytes();
  std::string start(std::min(file_bytes, kSignatureBytes), '\0');
  WAYPOINT_RETURN_IF_ERROR(file.Read(0, absl::MakeSpan(start)));
  WAYPOINT_ASSIGN_OR_RETURN(const int64_t header_bytes, CheckPrefix(start, file_bytes, file.path(), limits));
  std::string json(header_bytes, '\0');
  WAYPOINT_RETURN_IF_ERROR(file.Read(kPrefixBytes, absl::MakeSpan(json)));
  return ParseHeader(json, file_bytes, file.path(), limits);
}

absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(absl::string_view prefix, int64_t file_bytes,
                                                         absl::string_view path, const Limits& limits) {
  // A prefix that is shorter than what the file should hold counts as the whole file.
  const int64_t present = static_cast<int64_t>(prefix.size());
  WAYPOINT_ASSIGN_OR_RETURN(const int64_t header_bytes,
                            CheckPrefix(prefix.substr(0, kSignatureBytes), file_bytes, path, limits));
  if (header_bytes > present - kPrefixBytes) {
    return MakeError(ErrorKind::kTruncated,
                     absl::StrCat(QuotedPath(path), ": header should end at ", kPrefixBytes + header_bytes, ", ",
                                  present, " bytes are here"));
  }
  return ParseHeader(prefix.substr(kPrefixBytes, header_bytes), file_bytes, path, limits);
}

std::string BuildSafetensorsHeader(std::vector<SafetensorsEntry>* entries,
                                   const std::map<std::string, std::string>& metadata, int64_t alignment) {
  std::string out(kPrefixBytes, '\0');
  out.push_back('{');
  if (!metadata.empty()) {
    AppendJsonString(kMetadataKey, &out);
    out.append(":{");
    for (const auto& [key, value] : metadata) {
      out.append(out.back() == '{' ? "" : ",");
      AppendJsonString(key, &out);
      out.push_back(':');
      AppendJsonString(value, &out);
    }
    out.push_back('}');
  }
  int64_t end = 0;
  for (SafetensorsEntry& entry : *entries) {
    entry.begin = end;
    end += TensorBytes(entry.dtype, entry.shape).value();
    entry.end = end;
    out.append(out.back() == '{' ? "" : ",");
    AppendJsonString(entry.name, &out);
    absl::StrAppend(&out, ":{\"dtype\":\"", DTypeName(entry.dtype), "\",\"shape\":[", absl::StrJoin(entry.shape, ","),
                    "],\"data_offsets\":[", entry.begin, ",", entry.end, "]}");
  }
  out.push_back('}');

  const int64_t unpadded = static_cast<int64_t>(out.size());
  const int64_t data_begin = (unpadded + alignment - 1) / alignment * alignment;
  out.append(data_begin - unpadded, ' ');
  const uint64_t header_bytes = static_cast<uint64_t>(data_begin - kPrefixBytes);
  for (int i = 0; i < kPrefixBytes; ++i) {
    out[i] = static_cast<char>(header_bytes >> (8 * i) & 0xFF);
  }
  for (SafetensorsEntry& entry : *entries) {
    entry.begin += data_begin;
    entry.end += data_begin;
  }
  return out;
}

}  // namespace waypoint
