#include "checkpoint/base/json.h"

#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <deque>
#include <iterator>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"

namespace waypoint {
namespace {

constexpr size_t kQuotedBytes = 120;

// Tells where the parser is: nlohmann's SAX interface has offsets for syntax errors only.
class CountingIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  CountingIterator(const char* at, const char** position) : at_(at), position_(position) {}
  reference operator*() const { return *at_; }
  CountingIterator& operator++() {
    *position_ = ++at_;
    return *this;
  }
  CountingIterator operator++(int) {
    CountingIterator old = *this;
    ++*this;
    return old;
  }
  friend bool operator==(const CountingIterator& a, const CountingIterator& b) { return a.at_ == b.at_; }
  friend bool operator!=(const CountingIterator& a, const CountingIterator& b) { return a.at_ != b.at_; }

 private:
  const char* at_;
  const char** position_;
};

// nlohmann's SAX handler: adds depth and duplicate checks, turns syntax errors into statuses.
class Handler {
 public:
  Handler(absl::string_view text, absl::string_view what, const Limits& limits, JsonEvents& events)
      : text_(text), what_(what), limits_(limits), events_(events), position_(text.data()) {}

  const char** position() { return &position_; }
  const absl::Status& status() const { return status_; }

  // The names below are nlohmann's.
  bool null() { return Keep(events_.Null()); }
  bool boolean(bool value) { return Keep(events_.Bool(value)); }
  bool number_integer(int64_t value) { return Keep(events_.Integer(value)); }
  bool number_unsigned(uint64_t value) { return Keep(events_.Unsigned(value)); }
  bool number_float(double value, const std::string& text) { return Keep(events_.Float(value, text)); }
  bool string(std::string& value) { return Keep(events_.String(value)); }
  bool binary(Json::binary_t&) { return Fail(ErrorKind::kJson, "binary value"); }

  bool start_object(size_t) {
    keys_.emplace_back();
    return Deeper() && Keep(events_.StartObject());
  }
  bool key(std::string& key) {
    if (!keys_.back().insert(Stored(key)).second) {
      return Fail(ErrorKind::kDupKey, absl::StrCat("key ", Quoted(key), " appears twice in one object"));
    }
    return Keep(events_.Key(key));
  }
  bool end_object() {
    --depth_;
    keys_.pop_back();
    return Keep(events_.EndObject());
  }
  bool start_array(size_t) { return Deeper() && Keep(events_.StartArray()); }
  bool end_array() {
    --depth_;
    return Keep(events_.EndArray());
  }

  template <typename Exception>
  bool parse_error(size_t position, const std::string& /*last_token*/, const Exception& exception) {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: syntax error ...; last read: 'the token'"
    absl::string_view reason = exception.what();
    reason = reason.substr(0, reason.find("; last read: '"));
    const size_t bracket = reason.find("] ");
    reason = bracket == absl::string_view::npos ? reason : reason.substr(bracket + 2);
    absl::ConsumePrefix(&reason, "parse error ");
    status_ = MakeError(ErrorKind::kJson, absl::StrCat(what_, ": not JSON: ", reason.substr(0, 200), " (byte ",
                                                       position == 0 ? Offset() : position - 1, ")"));
    return false;
  }

 private:
  size_t Offset() const { return static_cast<size_t>(position_ - text_.data()); }

  bool Keep(absl::Status status) {
    if (!status.ok()) {
      status_ = std::move(status);
    }
    return status_.ok();
  }

  bool Fail(ErrorKind kind, absl::string_view message) {
    return Keep(MakeError(kind, absl::StrCat(what_, ": ", message, " (before byte ", Offset(), ")")));
  }

  bool Deeper() {
    if (++depth_ > limits_.json_depth) {
      return Fail(ErrorKind::kLimit, absl::StrCat("JSON is nested deeper than json_depth = ", limits_.json_depth));
    }
    return true;
  }

  // Keys without escapes are kept as slices of the text, so that the sets of a huge object stay small.
  absl::string_view Stored(const std::string& key) {
    const size_t end = Offset();  // behind the closing quote
    if (end > key.size()) {
      const absl::string_view slice = text_.substr(end - 1 - key.size(), key.size());
      if (slice == key) {
        return slice;
      }
    }
    return escaped_keys_.emplace_back(key);
  }

  const absl::string_view text_;
  const absl::string_view what_;
  const Limits& limits_;
  JsonEvents& events_;
  const char* position_;
  int64_t depth_ = 0;
  std::vector<absl::flat_hash_set<absl::string_view>> keys_;  // one set per open object
  std::deque<std::string> escaped_keys_;
  absl::Status status_;
};

void AppendFloat(double value, std::string* out) {
  if (!std::isfinite(value)) {
    out->append(std::isnan(value) ? "NaN" : value < 0 ? "-Infinity" : "Infinity");
    return;
  }
  // Shortest digits that read back as the same double; where the point goes is Python's rule: float_repr_style "short",
  // CPython Objects/floatobject.c and Python/pystrtod.c ('r': exponent when < -4 or >= 16).
  char buffer[64];
  const std::to_chars_result end = std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific);
  absl::string_view text(buffer, end.ptr - buffer);
  if (absl::ConsumePrefix(&text, "-")) {
    out->push_back('-');
  }
  const size_t e = text.find('e');
  std::string digits(text.substr(0, 1));
  if (e > 2) {
    digits.append(text.data() + 2, e - 2);
  }
  int exponent = 0;
  const char* exponent_begin = text.data() + e + (text[e + 1] == '+' ? 2 : 1);
  std::from_chars(exponent_begin, end.ptr, exponent);

  if (exponent < -4 || exponent >= 16) {
    absl::StrAppend(out, digits.substr(0, 1), digits.size() > 1 ? "." : "", digits.substr(1), "e",
                    exponent < 0 ? "-" : "+", std::abs(exponent) < 10 ? "0" : "", std::abs(exponent));
  } else if (exponent < 0) {
    absl::StrAppend(out, "0.", std::string(-exponent - 1, '0'), digits);
  } else {
    const size_t whole = static_cast<size_t>(exponent) + 1;
    if (digits.size() < whole) {
      digits.append(whole - digits.size(), '0');
    }
    absl::StrAppend(out, digits.substr(0, whole), ".", digits.size() > whole ? digits.substr(whole) : "0");
  }
}

void AppendValue(const Json& value, int indent, std::string* out) {
  const auto new_line = [out](int spaces) {
    out->push_back('\n');
    out->append(spaces, ' ');
  };
  switch (value.type()) {
    case Json::value_t::object: {
      out->push_back('{');
      bool first = true;
      for (const auto& [key, member] : value.get_ref<const Json::object_t&>()) {
        out->append(first ? "" : ",");
        first = false;
        new_line(indent + 2);
        AppendJsonString(key, out);
        out->append(": ");
        AppendValue(member, indent + 2, out);
      }
      if (!first) {
        new_line(indent);
      }
      out->push_back('}');
      break;
    }
    case Json::value_t::array: {
      out->push_back('[');
      bool first = true;
      for (const Json& element : value) {
        out->append(first ? "" : ",");
        first = false;
        new_line(indent + 2);
        AppendValue(element, indent + 2, out);
      }
      if (!first) {
        new_line(indent);
      }
      out->push_back(']');
      break;
    }
    case Json::value_t::string:
      AppendJsonString(value.get_ref<const std::string&>(), out);
      break;
    case Json::value_t::boolean:
      out->append(value.get<bool>() ? "true" : "false");
      break;
    case Json::value_t::number_integer:
      absl::StrAppend(out, value.get<int64_t>());
      break;
    case Json::value_t::number_unsigned:
      absl::StrAppend(out, value.get<uint64_t>());
      break;
    case Json::value_t::number_float:
      AppendFloat(value.get<double>(), out);
      break;
    case Json::value_t::null:
    case Json::value_t::binary:     // JSON text has none
    case Json::value_t::discarded:  // made by parser callbacks only, which are not used
      out->append("null");
      break;
  }
}

}  // namespace

absl::Status JsonTreeBuilder::Add(Json value) {
  if (frames_.empty()) {
    root_ = std::move(value);
    complete_ = true;
  } else if (frames_.back().is_object) {
    frames_.back().members.emplace_back(std::move(frames_.back().key), std::move(value));
  } else {
    frames_.back().elements.push_back(std::move(value));
  }
  return absl::OkStatus();
}

absl::Status JsonTreeBuilder::StartObject() {
  frames_.emplace_back();
  frames_.back().is_object = true;
  return absl::OkStatus();
}

absl::Status JsonTreeBuilder::Key(std::string& key) {
  frames_.back().key = std::move(key);
  return absl::OkStatus();
}

absl::Status JsonTreeBuilder::EndObject() {
  // ordered_map's operator[] and insert search linearly; its base, a vector, does not.  Reserved exactly, because pairs
  // with a const key are copied, not moved, when the vector grows.
  Json object = Json::object();
  auto& map = object.get_ref<Json::object_t&>();
  map.reserve(frames_.back().members.size());
  for (auto& [key, value] : frames_.back().members) {
    map.emplace_back(std::move(key), std::move(value));
  }
  frames_.pop_back();
  return Add(std::move(object));
}

absl::Status JsonTreeBuilder::StartArray() {
  frames_.emplace_back();
  return absl::OkStatus();
}

absl::Status JsonTreeBuilder::EndArray() {
  Json array = Json::array();
  array.get_ref<Json::array_t&>() = std::move(frames_.back().elements);
  frames_.pop_back();
  return Add(std::move(array));
}

absl::Status JsonTreeBuilder::String(std::string& value) { return Add(Json(std::move(value))); }
absl::Status JsonTreeBuilder::Integer(int64_t value) { return Add(Json(value)); }
absl::Status JsonTreeBuilder::Unsigned(uint64_t value) { return Add(Json(value)); }
absl::Status JsonTreeBuilder::Bool(bool value) { return Add(Json(value)); }
absl::Status JsonTreeBuilder::Null() { return Add(Json()); }

absl::Status JsonTreeBuilder::Float(double value, const std::string& text) {
  if (text.find_first_of(".eE") == std::string::npos) {
    return MakeError(ErrorKind::kJson, absl::StrCat("integer ", Quoted(text), " does not fit 64 bits"));
  }
  return Add(Json(value));
}

std::string Quoted(absl::string_view text) {
  const bool cut = text.size() > kQuotedBytes;
  size_t length = cut ? kQuotedBytes : text.size();
  while (cut && length > 0 && (static_cast<unsigned char>(text[length]) & 0xC0) == 0x80) {
    --length;  // never inside a character
  }
  std::string out;
  AppendJsonString(text.substr(0, length), &out);
  return cut ? absl::StrCat(out, "... (", text.size(), " bytes)") : out;
}

std::string QuotedPath(absl::string_view path) {
  std::string out;
  AppendJsonString(path, &out);
  return out;
}

absl::StatusOr<Json> ParseJson(absl::string_view text, absl::string_view what, const Limits& limits) {
  JsonTreeBuilder builder;
  const absl::Status status = ParseJsonEvents(text, what, limits, builder);
  if (!status.ok()) {
    return absl::StartsWith(status.message(), what) ? status : Annotate(status, what);
  }
  return builder.Take();
}

absl::Status ParseJsonEvents(absl::string_view text, absl::string_view what, const Limits& limits, JsonEvents& events) {
  // Of two marks, UTF-8's is also UTF-8 text; UTF-16's are not and are named to help the reader of the message.
  if (absl::StartsWith(text, "\xEF\xBB\xBF") || absl::StartsWith(text, "\xFF\xFE") ||
      absl::StartsWith(text, "\xFE\xFF")) {
    return MakeError(ErrorKind::kJson,
                     absl::StrCat(what, ": starts with a byte-order mark; save it as UTF-8 without one"));
  }
  WAYPOINT_RETURN_IF_ERROR(CheckUtf8(text, what));
  // nlohmann's lexer takes a NUL for the end of the text, which would hide everything behind it.
  if (const size_t nul = text.find('\0'); nul != absl::string_view::npos) {
    return MakeError(ErrorKind::kJson, absl::StrCat(what, ": not JSON: NUL at byte ", nul));
  }
  if (text.empty()) {
    return MakeError(ErrorKind::kJson, absl::StrCat(what, ": not JSON: empty text"));
  }
  Handler handler(text, what, limits, events);
  const CountingIterator begin(text.data(), handler.position());
  const CountingIterator end(text.data() + text.size(), handler.position());
  Json::sax_parse(begin, end, &handler, Json::input_format_t::json, /*strict=*/true, /*ignore_comments=*/false);
  return handler.status();
}

absl::Status CheckUtf8(absl::string_view text, absl::string_view what) {
  const auto* const begin = reinterpret_cast<const unsigned char*>(text.data());
  const auto* const end = begin + text.size();
  const auto is_tail = [end](const unsigned char* p) { return p < end && (*p & 0xC0) == 0x80; };
  for (const unsigned char* p = begin; p < end;) {
    if (end - p >= 8) {
      uint64_t word = 0;
      std::memcpy(&word, p, sizeof(word));
      if ((word & 0x8080808080808080u) == 0) {
        p += 8;
        continue;
      }
    }
    // Table 3-7 of the Unicode standard: what the second byte may be shuts out overlong forms, surrogates and values
    // past U+10FFFF.
    int length = 0;
    if (*p < 0x80) {
      length = 1;
    } else if (*p >= 0xC2 && *p <= 0xDF) {
      length = is_tail(p + 1) ? 2 : 0;
    } else if (*p >= 0xE0 && *p <= 0xEF) {
      const bool second = is_tail(p + 1) && (*p != 0xE0 || p[1] >= 0xA0) && (*p != 0xED || p[1] <= 0x9F);
      length = second && is_tail(p + 2) ? 3 : 0;
    } else if (*p >= 0xF0 && *p <= 0xF4) {
      const bool second = is_tail(p + 1) && (*p != 0xF0 || p[1] >= 0x90) && (*p != 0xF4 || p[1] <= 0x8F);
      length = second && is_tail(p + 2) && is_tail(p + 3) ? 4 : 0;
    }
    if (length == 0) {
      return MakeError(ErrorKind::kUtf8,
                       absl::StrCat(what, ": not UTF-8: byte 0x", absl::Hex(*p, absl::kZeroPad2), " at ", p - begin));
    }
    p += length;
  }
  return absl::OkStatus();
}

void AppendJsonString(absl::string_view text, std::string* out) {
  out->push_back('"');
  for (const char c : text) {
    switch (c) {
      case '"':
        out->append("\\\"");
        break;
      case '\\':
        out->append("\\\\");
        break;
      case '\b':
        out->append("\\b");
        break;
      case '\f':
        out->append("\\f");
        break;
      case '\n':
        out->append("\\n");
        break;
      case '\r':
        out->append("\\r");
        break;
      case '\t':
        out->append("\\t");
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          absl::StrAppend(out, "\\u", absl::Hex(static_cast<unsigned char>(c), absl::kZeroPad4));
        } else {
          out->push_back(c);
        }
    }
  }
  out->push_back('"');
}

std::string DumpJson(const Json& value) {
  std::string out;
  AppendValue(value, 0, &out);
  out.push_back('\n');
  return out;
}

}  // namespace waypoint
