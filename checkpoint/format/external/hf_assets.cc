#include "checkpoint/format/external/hf_assets.h"

#include <algorithm>
#include <iterator>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/json.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/container/file_kind.h"
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
constexpr absl::string_view kPrefixes[] = {"tokenizer.model"};
constexpr absl::string_view kPrefixesForPeople[] = {"LICENSE", "LICENCE", "NOTICE"};
constexpr absl::string_view kTemplateSuffix = ".jinja";
constexpr absl::string_view kCodeSuffix = ".py";
constexpr absl::string_view kCodePrefixes[] = {"configuration_", "modeling_",         "modular_",
                                               "tokenization_",  "image_processing_", "processing_"};
constexpr absl::string_view kSuffixes[] = {".tiktoken", kTemplateSuffix, kCodeSuffix};
constexpr absl::string_view kSuffixForPeople = ".md";

// Others the native format does not store, and no model needs.
bool IsUsualName(absl::string_view name) {
  for (const char c : name) {
    if (absl::ascii_iscntrl(c) || c == '\\') {
      return false;
    }
  }
  return !absl::StartsWith(name, "-") && CheckUtf8(name, "name").ok();
}

class AssetReader {
 public:
  AssetReader(FileSystem& fs, const Limits& limits, std::vector<std::string>* left_behind)
      : fs_(fs), limits_(limits), left_behind_(left_behind) {}

  absl::Status Add(const ConfinedDirectory& files, const std::string& name, const std::string& prefix) {
    Asset asset;
    asset.name = absl::StrCat(prefix, name);
    absl::StatusOr<std::string> path = files.Resolve(name);
    if (absl::IsNotFound(path.status()) && IsForPeople(name)) {
      left_behind_->push_back(asset.name);
      return absl::OkStatus();
    }
    WAYPOINT_ASSIGN_OR_RETURN(asset.path, std::move(path));
    WAYPOINT_ASSIGN_OR_RETURN(const FileInfo info, fs_.Stat(asset.path));
    asset.size_bytes = info.size_bytes;
    WAYPOINT_RETURN_IF_ERROR(CheckHfAsset(fs_, asset, limits_));
    assets_.push_back(std::move(asset));
    return absl::OkStatus();
  }

  absl::Status AddTemplates(const ConfinedDirectory& files) {
    WAYPOINT_ASSIGN_OR_RETURN(const ConfinedDirectory templates, files.Below(kTemplateDirectory));
    const std::string prefix = absl::StrCat(kTemplateDirectory, "/");
    for (const DirectoryEntry& entry : templates.entries()) {
      if (IsHfTemplate(entry.name) && entry.type != FileType::kDirectory) {
        WAYPOINT_RETURN_IF_ERROR(Add(templates, entry.name, prefix));
      } else {
        left_behind_->push_back(absl::StrCat(prefix, entry.name));
      }
    }
    return absl::OkStatus();
  }

  std::vector<Asset> assets() { return std::move(assets_); }

 private:
  FileSystem& fs_;
  const Limits& limits_;
  std::vector<std::string>* const left_behind_;
  std::vector<Asset> assets_;
};

}  // namespace

bool IsForPeople(absl::string_view name) {
  return absl::EndsWith(name, kSuffixForPeople) ||
         std::any_of(std::begin(kPrefixesForPeople), std::end(kPrefixesForPeople),
                     [name](absl::string_view prefix) { return absl::StartsWith(name, prefix); });
}

bool IsHfTemplate(absl::string_view name) {
  return IsUsualName(name) && absl::EndsWith(name, kTemplateSuffix) && name[0] != '.';
}

bool IsHfAsset(absl::string_view name) {
  if (!IsUsualName(name)) {
    return false;
  }
  if (IsForPeople(name) && name[0] != '.') {
    return true;
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
  // Code and texts for people are nobody's large files.
  if (!absl::EndsWith(asset.name, kCodeSuffix) && !IsForPeople(asset.name)) {
    WAYPOINT_RETURN_IF_ERROR(CheckNoPointer(fs, asset.path));
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

absl::StatusOr<std::vector<Asset>> ReadHfAssets(FileSystem& fs, const ConfinedDirectory& files,
                                                const std::function<bool(absl::string_view name)>& is_known,
                                                const Limits& limits, std::vector<std::string>* left_behind) {
  AssetReader reader(fs, limits, left_behind);
  for (const DirectoryEntry& entry : files.entries()) {
    if (is_known(entry.name)) {
      continue;
    }
    if (entry.name == kTemplateDirectory && entry.type == FileType::kDirectory) {
      WAYPOINT_RETURN_IF_ERROR(reader.AddTemplates(files));
    } else if (IsHfAsset(entry.name) && entry.type != FileType::kDirectory) {
      WAYPOINT_RETURN_IF_ERROR(reader.Add(files, entry.name, ""));
    } else {
      left_behind->push_back(entry.name);
    }
  }
  return reader.assets();
}

}  // namespace waypoint
