#ifndef CHECKPOINT_FORMAT_EXTERNAL_HF_ASSETS_H_
#define CHECKPOINT_FORMAT_EXTERNAL_HF_ASSETS_H_

// Which files of a Hugging Face directory travel with a model, beside its config and weights.
//
//   tokenizer      tokenizer.json, tokenizer_config.json, special_tokens_map.json, added_tokens.json, vocab.json,
//   vocab.txt,
//                  merges.txt, tekken.json, tokenizer.model*, spiece.model, sentencepiece.bpe.model, *.tiktoken
//   generation     generation_config.json, chat_template.json, *.jinja
//   processors     preprocessor_config.json, processor_config.json, image_processor_config.json,
//                  video_preprocessor_config.json
//   for people     LICENSE*, LICENCE*, NOTICE*, *.md
//   code           *.py, as data: never run
//
// Thread-safe.

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "checkpoint/base/limits.h"
#include "checkpoint/format/checkpoint_format.h"
#include "checkpoint/storage/file_system.h"

namespace waypoint {

// By name alone.
bool IsHfAsset(absl::string_view name);

// Is it whole, as far as can be told without interpreting it?  JSON is parsed (tokenizers: tokenizer_check.h),
// everything else is bytes to carry.
//
// Errors: E_LIMIT (asset_file_bytes, json_file_bytes, tokenizer_file_bytes, json_depth), E_TOKENIZER, and for other
// JSON E_UTF8, E_JSON, E_DUP_KEY, and E_SCHEMA for what is no object.
absl::Status CheckHfAsset(FileSystem& fs, const Asset& asset, const Limits& limits);

}  // namespace waypoint

#endif  // CHECKPOINT_FORMAT_EXTERNAL_HF_ASSETS_H_
