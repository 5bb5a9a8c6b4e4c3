#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <memory>

#include "absl/container/flat_hash_set.h"
#include "absl/container/inlined_vector.h"
#include "absl/strings/ascii.h"
#include "absl/strings/charconv.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/json.h"
#include "checkpoint/base/status_macros.h"

namespace waypoint {
namespace {

// The keys of one open object.  Most objects are small: those need no memory of their own.
class KeySet {
 public:
  // False when the key is there already.
  bool Insert(absl::string_view key) {
    if (many_.empty()) {
      for (const absl::string_view other : few_) {
        if (other == key) {
          return false;
        }
      }
      few_.push_back(key);
      if (few_.size() == kFew) {
        many_.insert(few_.begin(), few_.end());
      }
      return true;
    }
    return many_.insert(key).second;
  }
  int64_t size() const { return static_cast<int64_t>(many_.empty() ? few_.size() : many_.size()); }
  void Clear() {
    few_.clear();
    many_.clear();
  }

 private:
  static constexpr size_t kFew = 8;
  absl::InlinedVector<absl::string_view, kFew> few_;
  absl::flat_hash_set<absl::string_view> many_;
};

// Copies of strings in large blocks.
class Arena {
 public:
  absl::string_view Copy(absl::string_view text) {
    if (text.size() > left_) {
      left_ = std::max(text.size(), kBlockBytes);
      blocks_.push_back(std::make_unique<char[]>(left_));
      next_ = blocks_.back().get();
    }
    std::memcpy(next_, text.data(), text.size());
    const absl::string_view copy(next_, text.size());
    next_ += text.size();
    left_ -= text.size();
    return copy;
  }

 private:
  static constexpr size_t kBlockBytes = size_t{64} << 10;
  std::vector<std::unique_ptr<char[]>> blocks_;
  char* next_ = nullptr;
  size_t left_ = 0;
};

// RFC 8259, iterative.  The text is UTF-8.
class Parser {
 public:
  Parser(absl::string_view text, absl::string_view what, const Limits& limits, JsonEvents& events)
      : begin_(text.data()),
        end_(text.data() + text.size()),
        p_(text.data()),
        what_(what),
        limits_(limits),
        events_(events) {}

  absl::Status Parse() {
    SkipSpace();
    WAYPOINT_RETURN_IF_ERROR(Value());
    while (!open_.empty()) {
      WAYPOINT_RETURN_IF_ERROR(open_.back().is_object ? NextMember() : NextElement());
    }
    SkipSpace();
    return p_ == end_ ? absl::OkStatus() : Bad("expected the end of the text");
  }

 private:
  struct Frame {
    bool is_object = false;
    bool first = true;
  };

  absl::Status Bad(absl::string_view problem) const { return BadAt(p_, problem); }
  absl::Status BadAt(const char* at, absl::string_view problem) const {
    return Error(ErrorKind::kJson, absl::StrCat("not JSON: ", problem, at == end_ ? ", found the end" : ""), at);
  }
  absl::Status Error(ErrorKind kind, absl::string_view problem, const char* at) const {
    return MakeError(kind, absl::StrCat(what_, ": ", problem, " (byte ", at - begin_, ")"));
  }

  void SkipSpace() {
    while (p_ < end_ && (*p_ == ' ' || *p_ == '\n' || *p_ == '\t' || *p_ == '\r')) {
      ++p_;
    }
  }

  bool Take(char c) {
    if (p_ < end_ && *p_ == c) {
      ++p_;
      return true;
    }
    return false;
  }

  absl::Status Value() {
    if (p_ == end_) {
      return Bad("expected a value");
    }
    switch (*p_) {
      case '{':
        return Open(true);
      case '[':
        return Open(false);
      case '"':
        WAYPOINT_RETURN_IF_ERROR(String());
        return events_.String(string_);
      case 't':
        WAYPOINT_RETURN_IF_ERROR(Literal("true"));
        return events_.Bool(true);
      case 'f':
        WAYPOINT_RETURN_IF_ERROR(Literal("false"));
        return events_.Bool(false);
      case 'n':
        WAYPOINT_RETURN_IF_ERROR(Literal("null"));
        return events_.Null();
      default:
        return Number();
    }
  }

  absl::Status Literal(absl::string_view word) {
    if (!absl::StartsWith(absl::string_view(p_, end_ - p_), word)) {
      return Bad("expected a value");
    }
    p_ += word.size();
    return absl::OkStatus();
  }

  absl::Status Open(bool is_object) {
    if (static_cast<int64_t>(open_.size()) >= limits_.json_depth) {
      return Error(ErrorKind::kLimit, absl::StrCat("JSON is nested deeper than json_depth = ", limits_.json_depth), p_);
    }
    ++p_;
    open_.push_back({is_object, true});
    if (!is_object) {
      return events_.StartArray();
    }
    if (++objects_ > keys_.size()) {
      keys_.emplace_back();
    }
    return events_.StartObject();
  }

  absl::Status NextElement() {
    SkipSpace();
    if (Take(']')) {
      // A comma before it was refused where the next value was expected.
      open_.pop_back();
      return events_.EndArray();
    }
    if (!open_.back().first) {
      if (!Take(',')) {
        return Bad("expected ',' or ']'");
      }
      SkipSpace();
    }
    open_.back().first = false;
    return Value();
  }

  absl::Status NextMember() {
    SkipSpace();
    if (Take('}')) {
      open_.pop_back();
      live_keys_ -= keys_[--objects_].size();
      keys_[objects_].Clear();
      return events_.EndObject();
    }
    if (!open_.back().first) {
      if (!Take(',')) {
        return Bad("expected ',' or '}'");
      }
      SkipSpace();
    }
    open_.back().first = false;

    const char* const start = p_;
    if (p_ == end_ || *p_ != '"') {
      return Bad("expected a key in quotes");
    }
    WAYPOINT_RETURN_IF_ERROR(String());
    // Without escapes, the key lies in the text as it is.
    const absl::string_view raw(start + 1, p_ - start - 2);
    if (!keys_[objects_ - 1].Insert(raw == string_ ? raw : escaped_keys_.Copy(string_))) {
      return Error(ErrorKind::kDupKey, absl::StrCat("key ", Quoted(string_), " appears twice in one object"), start);
    }
    if (++live_keys_ > limits_.json_keys) {
      return Error(ErrorKind::kLimit, absl::StrCat("objects have more keys than json_keys = ", limits_.json_keys),
                   start);
    }
    SkipSpace();
    if (!Take(':')) {
      return Bad("expected ':'");
    }
    WAYPOINT_RETURN_IF_ERROR(events_.Key(string_));
    SkipSpace();
    return Value();
  }

  // Reads the string at p_ into string_.
  absl::Status String() {
    const char* const start = p_;
    const char* const body = p_ + 1;
    const char* stop = body;
    while (stop < end_ && *stop != '"' && *stop != '\\' && static_cast<unsigned char>(*stop) >= 0x20) {
      ++stop;
    }
    if (stop < end_ && *stop == '"') {
      string_.assign(body, stop);
      p_ = stop + 1;
      return absl::OkStatus();
    }

    // With escapes.  The end first: the decoded string is not longer than the text, so it is allocated once.
    const char* close = stop;
    while (close < end_ && *close != '"') {
      if (static_cast<unsigned char>(*close) < 0x20) {
        return BadAt(close, "control character in a string must be escaped");
      }
      if (*close == '\\' && ++close == end_) {
        break;
      }
      ++close;
    }
    if (close == end_) {
      return BadAt(start, "string has no closing quote");
    }
    string_.clear();
    string_.reserve(close - body);
    for (p_ = body; p_ < close;) {
      const char* const plain = p_;
      p_ = std::find(p_, close, '\\');
      string_.append(plain, p_);
      if (p_ < close) {
        WAYPOINT_RETURN_IF_ERROR(Escape(close));
      }
    }
    p_ = close + 1;
    return absl::OkStatus();
  }

  // The escape at p_, which ends before `close`.
  absl::Status Escape(const char* close) {
    static constexpr absl::string_view kNames = "\"\\/bfnrt";
    static constexpr absl::string_view kValues = "\"\\/\b\f\n\r\t";
    const char* const start = p_;
    ++p_;
    if (const size_t name = kNames.find(*p_); name != absl::string_view::npos) {
      string_.push_back(kValues[name]);
      ++p_;
      return absl::OkStatus();
    }
    uint32_t code = 0;
    if (!HexEscape(close, &code)) {
      return BadAt(start, "unknown escape in a string");
    }
    if (code >= 0xD800 && code <= 0xDFFF) {
      uint32_t low = 0;
      if (code >= 0xDC00 || p_ == close || *p_++ != '\\' || !HexEscape(close, &low) || low < 0xDC00 || low > 0xDFFF) {
        return BadAt(start, "escape of half a surrogate pair");
      }
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    AppendUtf8(code);
    return absl::OkStatus();
  }

  // "uXXXX" at p_.
  bool HexEscape(const char* close, uint32_t* code) {
    if (close - p_ < 5 || *p_ != 'u') {
      return false;
    }
    *code = 0;
    for (int i = 1; i <= 4; ++i) {
      const char c = absl::ascii_tolower(p_[i]);
      if (!absl::ascii_isxdigit(c)) {
        return false;
      }
      *code = *code << 4 | static_cast<uint32_t>(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    p_ += 5;
    return true;
  }

  void AppendUtf8(uint32_t code) {
    const auto tail = [this, code](int shift) { string_.push_back(static_cast<char>(0x80 | (code >> shift & 0x3F))); };
    if (code < 0x80) {
      string_.push_back(static_cast<char>(code));
    } else if (code < 0x800) {
      string_.push_back(static_cast<char>(0xC0 | code >> 6));
      tail(0);
    } else if (code < 0x10000) {
      string_.push_back(static_cast<char>(0xE0 | code >> 12));
      tail(6);
      tail(0);
    } else {
      string_.push_back(static_cast<char>(0xF0 | code >> 18));
      tail(12);
      tail(6);
      tail(0);
    }
  }

  // False when there is no digit.
  bool Digits() {
    const char* const start = p_;
    while (p_ < end_ && absl::ascii_isdigit(*p_)) {
      ++p_;
    }
    return p_ > start;
  }

  absl::Status Number() {
    const char* const start = p_;
    const bool negative = Take('-');
    if (!Take('0') && !Digits()) {
      return BadAt(start, "expected a value");
    }
    const char* const integer_end = p_;
    if (Take('.') && !Digits()) {
      return Bad("expected a digit");
    }
    if (Take('e') || Take('E')) {
      if (!Take('+')) {
        Take('-');
      }
      if (!Digits()) {
        return Bad("expected a digit");
      }
    }
    const absl::string_view text(start, p_ - start);
    // An unsigned number of 64 bits has at most 20 digits.
    if (p_ == integer_end && text.size() <= 20) {
      uint64_t natural = 0;
      int64_t integer = 0;
      if (!negative && absl::SimpleAtoi(text, &natural)) {
        return events_.Unsigned(natural);
      }
      if (negative && absl::SimpleAtoi(text, &integer)) {
        return events_.Integer(integer);
      }
    }
    double value = 0;
    const absl::from_chars_result result = absl::from_chars(start, p_, value);
    // Out of range is too large or too small; what is too small is zero, as everywhere.
    if (result.ec == std::errc::result_out_of_range && std::abs(value) > 1) {
      return Error(ErrorKind::kJson, absl::StrCat("number ", Quoted(text), " is beyond a double"), start);
    }
    return events_.Float(value, std::string(text));
  }

  const char* const begin_;
  const char* const end_;
  const char* p_;
  const absl::string_view what_;
  const Limits& limits_;
  JsonEvents& events_;

  std::string string_;  // the last one that was read
  std::vector<Frame> open_;
  std::vector<KeySet> keys_;  // of open objects; kept for the next ones
  size_t objects_ = 0;
  int64_t live_keys_ = 0;
  Arena escaped_keys_;
};

}  // namespace

absl::Status ParseJsonEvents(absl::string_view text, absl::string_view what, const Limits& limits, JsonEvents& events) {
  // Of two marks, UTF-8's is also UTF-8 text; UTF-16's are not and are named to help the reader of the message.
  if (absl::StartsWith(text, "\xEF\xBB\xBF") || absl::StartsWith(text, "\xFF\xFE") ||
      absl::StartsWith(text, "\xFE\xFF")) {
    return MakeError(ErrorKind::kJson,
                     absl::StrCat(what, ": starts with a byte-order mark; save it as UTF-8 without one"));
  }
  WAYPOINT_RETURN_IF_ERROR(CheckUtf8(text, what));
  if (text.empty()) {
    return MakeError(ErrorKind::kJson, absl::StrCat(what, ": not JSON: empty text"));
  }
  return Parser(text, what, limits, events).Parse();
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

}  // namespace waypoint
