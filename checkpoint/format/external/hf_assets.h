#ifndef CHECKPOINT_FORMAT_EXTERNAL_HF_ASSETS_H_
#define CHECKPOINT_FORMAT_EXTERNAL_HF_ASSETS_H_

// Which files of a Hugging Face directory travel with a model, beside its config and weights.
//
//   tokenizer      tokenizer.json, tokenizer_config.json, special_tokens_map.json, added_tokens.json, vocab.json,
//   vocab.txt,
//                  merges.txt, tekken.json, tokenizer.model*, spiece.model, sentencepiece.bpe.model, *.tiktoken
//   generation     generation_config.json, chat_template.json, *.jinja, additional_chat_templates/*.jinja
//   processors     preprocessor_config.json, processor_config.json, image_processor_config.json,
//                  video_preprocessor_config.json
//   for people     LICENSE*, LICENCE*, NOTICE*, *.md
//   code           *.py, as data: never run
//
// Thread-safe.

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "checkpoint/base/limits.h"
#include "checkpoint/format/checkpoint_format.h"
#include "checkpoint/storage/confined_directory.h"
#include "checkpoint/storage/file_system.h"

namespace waypoint {

// By name alone: of a file in the directory itself.  Names that are not UTF-8 are none, which no manifest can hold.
bool IsHfAsset(absl::string_view name);
// Of a file in kTemplateDirectory.
bool IsHfTemplate(absl::string_view name);
// Is it there for people, so that a model is whole without it?
bool IsForPeople(absl::string_view name);

// The assets of a directory, but for what `is_known` says; names of what is left behind go to `left_behind`, and so do
// links of files for people that lead nowhere. Errors: E_IO, E_PATH (a link out of the directory), those of
// CheckHfAsset.
absl::StatusOr<std::vector<Asset>> ReadHfAssets(FileSystem& fs, const ConfinedDirectory& files,
                                                const std::function<bool(absl::string_view name)>& is_known,
                                                const Limits& limits, std::vector<std::string>* left_behind);

// Is it whole, as far as can be told without interpreting it?  JSON is parsed (tokenizers: tokenizer_check.h),
// everything else is bytes to carry, but no pointer to bytes that are elsewhere.
//
// Errors: E_HEADER (a pointer of git-lfs or the like), E_LIMIT (asset_file_bytes, json_file_bytes,
// tokenizer_file_bytes, json_depth), E_TOKENIZER, and for other JSON E_UTF8, E_JSON, E_DUP_KEY, and E_SCHEMA for what
// is no object.
absl::Status CheckHfAsset(FileSystem& fs, const Asset& asset, const Limits& limits);

}  // namespace waypoint

#endif  // CHECKPOINT_FORMAT_EXTERNAL_HF_ASSETS_H_
