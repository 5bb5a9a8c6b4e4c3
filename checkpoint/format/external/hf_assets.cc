#include "checkpoint/format/external/hf_assets.h"

#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/json.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/format/external/tokenizer_check.h"

namespace waypoint {
namespace {

constexpr absl::string_view kNames[] = {
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tekken.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "generation_config.json",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
    "image_processor_config.json",
    "video_preprocessor_config.json",
};
constexpr absl::string_view kPrefixes[] = {"tokenizer.model", "LICENSE", "LICENCE", "NOTICE"};
constexpr absl::string_view kSuffixes[] = {".tiktoken", ".jinja", ".md", ".py"};

}  // namespace

bool IsHfAsset(absl::string_view name) {
  // Names that the native format does not store, and that no model needs.
  for (const char c : name) {
    if (absl::ascii_iscntrl(c) || c == '\\') {
      return false;
    }
  }
  if (absl::StartsWith(name, "-")) {
    return false;
  }
  for (const absl::string_view known : kNames) {
    if (name == known) {
      return true;
    }
  }
  for (const absl::string_view prefix : kPrefixes) {
    if (absl::StartsWith(name, prefix)) {
      return true;
    }
  }
  for (const absl::string_view suffix : kSuffixes) {
    if (absl::EndsWith(name, suffix) && name[0] != '.') {
      return true;
    }
  }
  return false;
}

absl::Status CheckHfAsset(FileSystem& fs, const Asset& asset, const Limits& limits) {
  if (asset.size_bytes > limits.asset_file_bytes) {
    return MakeError(ErrorKind::kLimit, absl::StrCat(QuotedPath(asset.path), " has ", asset.size_bytes,
                                                     " bytes, limit asset_file_bytes is ", limits.asset_file_bytes));
  }
  if (!absl::EndsWith(asset.name, ".json")) {
    return absl::OkStatus();
  }
  const bool vocabulary = asset.name == "vocab.json" || asset.name == "added_tokens.json";
  const bool tokenizer = asset.name == "tokenizer.json";
  const bool large = vocabulary || tokenizer || asset.name == "tekken.json";
  WAYPOINT_ASSIGN_OR_RETURN(const std::string text,
                            ReadSmallFile(fs, asset.path, large ? limits.tokenizer_file_bytes : limits.json_file_bytes,
                                          large ? "tokenizer_file_bytes" : "json_file_bytes"));
  if (large || asset.name == "tokenizer_config.json" || asset.name == "special_tokens_map.json") {
    return CheckTokenizerFile(tokenizer    ? TokenizerFile::kTokenizer
                              : vocabulary ? TokenizerFile::kVocabulary
                                           : TokenizerFile::kSettings,
                              text, asset.path, limits);
  }
  WAYPOINT_ASSIGN_OR_RETURN(const Json json, ParseJson(text, QuotedPath(asset.path), limits));
  if (!json.is_object()) {
    return MakeError(ErrorKind::kSchema,
                     absl::StrCat(QuotedPath(asset.path), ": is ", json.type_name(), ", must be an object"));
  }
  return absl::OkStatus();
}

}  // namespace waypoint
