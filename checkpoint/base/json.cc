#include "checkpoint/base/json.h"

#include <charconv>
#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/visible_text.h"

namespace waypoint {
namespace {

constexpr size_t kQuotedBytes = 120;

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
  const std::string out = QuotedPath(text.substr(0, length));
  return cut ? absl::StrCat(out, "... (", text.size(), " bytes)") : out;
}

std::string QuotedPath(absl::string_view path) {
  std::string json;
  AppendJsonString(path, &json);
  return VisibleText(json);
}

absl::StatusOr<Json> ParseJson(absl::string_view text, absl::string_view what, const Limits& limits) {
  JsonTreeBuilder builder;
  const absl::Status status = ParseJsonEvents(text, what, limits, builder);
  if (!status.ok()) {
    return absl::StartsWith(status.message(), what) ? status : Annotate(status, what);
  }
  return builder.Take();
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
