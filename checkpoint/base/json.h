#ifndef CHECKPOINT_BASE_JSON_H_
#define CHECKPOINT_BASE_JSON_H_

// Strict JSON for files of unknown origin.
//
// The parser is our own: nlohmann's takes a NUL for the end of the text, keeps the last of repeated keys, tells no
// offset to its handlers and needs six times the memory of a long token.  Trees are nlohmann's.
//
// Refused, each with the byte offset: text that is not UTF-8 (E_UTF8), a byte-order mark, comments, NaN, numbers
// beyond int64/uint64 or double (E_JSON), the same key twice in one object (E_DUP_KEY), nesting beyond
// Limits::json_depth (E_LIMIT).  Parsing is iterative and linear.  Key order and the kind of each number (integer or
// float) are kept.  Thread-safe.

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "checkpoint/base/limits.h"
#include "nlohmann/json.hpp"

namespace waypoint {

using Json = nlohmann::ordered_json;

// `what` names the text in messages: a quoted path.
absl::StatusOr<Json> ParseJson(absl::string_view text, absl::string_view what, const Limits& limits);

// Events of a strict parse, for files too large for a tree (safetensors headers, indices).  A callback that returns an
// error stops the parse with it.
class JsonEvents {
 public:
  virtual ~JsonEvents() = default;
  virtual absl::Status StartObject() = 0;
  virtual absl::Status Key(std::string& key) = 0;  // duplicates were refused before
  virtual absl::Status EndObject() = 0;
  virtual absl::Status StartArray() = 0;
  virtual absl::Status EndArray() = 0;
  virtual absl::Status String(std::string& value) = 0;
  virtual absl::Status Integer(int64_t value) = 0;
  virtual absl::Status Unsigned(uint64_t value) = 0;  // every non-negative integer comes here
  // Floats, and integers beyond 64 bits with their text.
  virtual absl::Status Float(double value, const std::string& text) = 0;
  virtual absl::Status Bool(bool value) = 0;
  virtual absl::Status Null() = 0;
};

// Collects one value from events: the tree of a part of a text that is parsed by events.
class JsonTreeBuilder final : public JsonEvents {
 public:
  // True when a whole value was seen.
  bool complete() const { return complete_; }
  Json Take() { return std::move(root_); }

  absl::Status StartObject() override;
  absl::Status Key(std::string& key) override;
  absl::Status EndObject() override;
  absl::Status StartArray() override;
  absl::Status EndArray() override;
  absl::Status String(std::string& value) override;
  absl::Status Integer(int64_t value) override;
  absl::Status Unsigned(uint64_t value) override;
  // E_JSON for an integer beyond 64 bits: a double would silently be another number.
  absl::Status Float(double value, const std::string& text) override;
  absl::Status Bool(bool value) override;
  absl::Status Null() override;

 private:
  struct Frame {
    bool is_object = false;
    std::string key;
    std::vector<std::pair<std::string, Json>> members;
    Json::array_t elements;
  };

  absl::Status Add(Json value);

  std::vector<Frame> frames_;
  Json root_;
  bool complete_ = false;
};

absl::Status ParseJsonEvents(absl::string_view text, absl::string_view what, const Limits& limits, JsonEvents& events);

// OK, or E_UTF8 with the offset of the first bad byte.  Overlong forms, surrogates and values past U+10FFFF are bad.
absl::Status CheckUtf8(absl::string_view text, absl::string_view what);

// Pretty, two spaces, keys in order, non-ASCII kept, newline at the end: as Python's
// json.dumps(indent=2, ensure_ascii=False) writes it, including 1e-05 and 10000.0 for floats.
std::string DumpJson(const Json& value);

// A name from a file for a message: in quotes, what a terminal does not show as it is escaped, cut at 120 bytes with
// its length behind it.
std::string Quoted(absl::string_view text);

// The same for a path of the caller's, which is never cut: its end matters most.
std::string QuotedPath(absl::string_view path);

// Appends `text` (UTF-8) as a JSON string with its quotes; escapes only what JSON demands.
void AppendJsonString(absl::string_view text, std::string* out);

}  // namespace waypoint

#endif  // CHECKPOINT_BASE_JSON_H_
