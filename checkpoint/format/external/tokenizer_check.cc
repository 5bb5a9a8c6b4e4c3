#include "checkpoint/format/external/tokenizer_check.h"

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/json.h"
#include "checkpoint/base/status_macros.h"

namespace waypoint {
namespace {

// What an open object or array of the file is.
enum class Place {
  kOther,
  kTokenizer,
  kModel,
  kVocabulary,  // {"token": id}
  kScores,      // Unigram's vocabulary: [["token", score]]
  kScorePair,
  kMerges,  // ["a b", ["a", "b"]]
  kMergePair,
  kAddedTokens,  // [{"id": 1, "content": "<s>"}]
  kAddedToken,
};

enum class Kind { kObject, kArray, kString, kId, kNumber, kNull, kOther };

class TokenizerEvents final : public JsonEvents {
 public:
  TokenizerEvents(TokenizerFile file, absl::string_view path) : file_(file), path_(path) {}

  // After the parse.
  absl::Status FirstError() const {
    if (error_.ok() && file_ == TokenizerFile::kTokenizer && !has_model_) {
      return MakeError(ErrorKind::kTokenizer, absl::StrCat(QuotedPath(path_), ": has no \"model\""));
    }
    return error_;
  }

  absl::Status StartObject() override { return Start(Kind::kObject); }
  absl::Status StartArray() override { return Start(Kind::kArray); }
  absl::Status EndObject() override { return End(); }
  absl::Status EndArray() override { return End(); }
  absl::Status Key(std::string& key) override {
    key_ = std::move(key);
    return absl::OkStatus();
  }
  absl::Status String(std::string& value) override { return See(Kind::kString, value); }
  absl::Status Integer(int64_t value) override { return See(Kind::kNumber, absl::StrCat(value)); }
  absl::Status Unsigned(uint64_t value) override {
    return See(value <= UINT32_MAX ? Kind::kId : Kind::kNumber, absl::StrCat(value));
  }
  absl::Status Float(double, const std::string& text) override { return See(Kind::kNumber, text); }
  absl::Status Bool(bool) override { return See(Kind::kOther, "a boolean"); }
  absl::Status Null() override { return See(Kind::kNull, "null"); }

 private:
  struct Level {
    Place place = Place::kOther;
    int64_t elements = 0;
  };

  // Does not stop the parse: the rest must still be JSON within the limits.
  absl::Status Bad(absl::string_view message) {
    if (error_.ok()) {
      error_ = MakeError(ErrorKind::kTokenizer, absl::StrCat(QuotedPath(path_), ": ", message));
    }
    return absl::OkStatus();
  }

  absl::Status Start(Kind kind) {
    WAYPOINT_RETURN_IF_ERROR(See(kind, kind == Kind::kObject ? "an object" : "an array"));
    levels_.push_back({Next(kind), 0});
    return absl::OkStatus();
  }

  absl::Status End() {
    const Level level = levels_.back();
    levels_.pop_back();
    if ((level.place == Place::kMergePair || level.place == Place::kScorePair) && level.elements != 2) {
      return Bad(absl::StrCat(level.place == Place::kMergePair ? "merge " : "vocabulary entry ",
                              levels_.back().elements - 1, " has ", level.elements, " elements, must have 2"));
    }
    return absl::OkStatus();
  }

  // The place of a container that starts here.
  Place Next(Kind kind) {
    if (levels_.empty()) {
      return file_ == TokenizerFile::kTokenizer    ? Place::kTokenizer
             : file_ == TokenizerFile::kVocabulary ? Place::kVocabulary
                                                   : Place::kOther;
    }
    switch (levels_.back().place) {
      case Place::kTokenizer:
        has_model_ = has_model_ || key_ == "model";
        return key_ == "model" ? Place::kModel : key_ == "added_tokens" ? Place::kAddedTokens : Place::kOther;
      case Place::kModel:
        if (key_ == "vocab") {
          return kind == Kind::kObject ? Place::kVocabulary : Place::kScores;
        }
        return key_ == "merges" ? Place::kMerges : Place::kOther;
      case Place::kScores:
        return Place::kScorePair;
      case Place::kMerges:
        return Place::kMergePair;
      case Place::kAddedTokens:
        return Place::kAddedToken;
      default:
        return Place::kOther;
    }
  }

  // A value, or the start of one, in the innermost open container.
  absl::Status See(Kind kind, absl::string_view shown) {
    if (levels_.empty()) {
      return kind == Kind::kObject ? absl::OkStatus() : Bad(absl::StrCat("is no JSON object but ", QuotedPath(shown)));
    }
    Level& level = levels_.back();
    const int64_t element = level.elements++;
    switch (level.place) {
      case Place::kTokenizer:
        if (key_ == "model" && kind != Kind::kObject) {
          return Bad("\"model\" is no object");
        }
        if (key_ == "added_tokens" && kind != Kind::kArray && kind != Kind::kNull) {
          return Bad("\"added_tokens\" is no array");
        }
        break;
      case Place::kModel:
        if (key_ == "vocab" && kind != Kind::kObject && kind != Kind::kArray) {
          return Bad("the vocabulary is neither an object nor an array");
        }
        if (key_ == "merges" && kind != Kind::kArray && kind != Kind::kNull) {
          return Bad("\"merges\" is no array");
        }
        break;
      case Place::kVocabulary:
        if (kind != Kind::kId) {
          return Bad(
              absl::StrCat("id of token ", Quoted(key_), " is ", QuotedPath(shown), ", must be an integer of 32 bits"));
        }
        break;
      case Place::kScores:
        if (kind != Kind::kArray) {
          return Bad(absl::StrCat("vocabulary entry ", element, " is no pair of token and score"));
        }
        break;
      case Place::kScorePair:
        if (element == 0 ? kind != Kind::kString : kind != Kind::kNumber && kind != Kind::kId) {
          return Bad(absl::StrCat("vocabulary entry ", levels_[levels_.size() - 2].elements - 1,
                                  " is no pair of token and score"));
        }
        break;
      case Place::kMerges:
        return CheckMerge(element, kind, shown);
      case Place::kMergePair:
        if (kind != Kind::kString) {
          return Bad(absl::StrCat("merge ", levels_[levels_.size() - 2].elements - 1, " is no pair of tokens"));
        }
        break;
      case Place::kAddedTokens:
        if (kind != Kind::kObject) {
          return Bad(absl::StrCat("added token ", element, " is no object"));
        }
        break;
      case Place::kAddedToken:
        if ((key_ == "id" && kind != Kind::kId) || (key_ == "content" && kind != Kind::kString)) {
          return Bad(absl::StrCat("added token ", levels_[levels_.size() - 2].elements - 1, ": ", Quoted(key_), " is ",
                                  QuotedPath(shown)));
        }
        break;
      case Place::kOther:
        break;
    }
    return absl::OkStatus();
  }

  absl::Status CheckMerge(int64_t element, Kind kind, absl::string_view text) {
    const size_t space = text.find(' ');
    const bool pair =
        kind == Kind::kString && space != absl::string_view::npos && text.find(' ', space + 1) == text.npos;
    if (pair || kind == Kind::kArray) {
      return absl::OkStatus();
    }
    return Bad(absl::StrCat("merge ", element, " is no pair of tokens: ", Quoted(text)));
  }

  const TokenizerFile file_;
  const absl::string_view path_;
  std::vector<Level> levels_;
  std::string key_;
  bool has_model_ = false;
  absl::Status error_;
};

}  // namespace

absl::Status CheckTokenizerFile(TokenizerFile kind, absl::string_view text, absl::string_view path,
                                const Limits& limits) {
  TokenizerEvents events(kind, path);
  const absl::Status status = ParseJsonEvents(text, QuotedPath(path), limits, events);
  if (!status.ok() && GetErrorKind(status) != ErrorKind::kLimit) {
    // What the file is matters more to the reader than which rule of JSON it breaks; the message has that too.
    return MakeError(ErrorKind::kTokenizer, status.message());
  }
  WAYPOINT_RETURN_IF_ERROR(status);
  return events.FirstError();
}

}  // namespace waypoint
