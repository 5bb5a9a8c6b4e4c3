#ifndef CHECKPOINT_FORMAT_EXTERNAL_TOKENIZER_CHECK_H_
#define CHECKPOINT_FORMAT_EXTERNAL_TOKENIZER_CHECK_H_

// Is a tokenizer's JSON file worth carrying along?
//
// Checked, in one linear pass that keeps nothing: strict JSON, an object, and where there is a vocabulary, that ids are
// integers of 32 bits and merges are pairs.  Nothing is interpreted: patterns and templates are data.
// Layout source: huggingface/tokenizers, models/bpe, models/unigram, added_vocabulary (serialization.rs).  Thread-safe.

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "checkpoint/base/limits.h"

namespace waypoint {

enum class TokenizerFile {
  kTokenizer,   // tokenizer.json
  kVocabulary,  // token -> id: vocab.json, added_tokens.json
  kSettings,    // any object: tokenizer_config.json, special_tokens_map.json
};

// `path` is for messages.  Errors: E_LIMIT (json_depth), E_TOKENIZER for everything else.
absl::Status CheckTokenizerFile(TokenizerFile kind, absl::string_view text, absl::string_view path,
                                const Limits& limits);

}  // namespace waypoint

#endif  // CHECKPOINT_FORMAT_EXTERNAL_TOKENIZER_CHECK_H_
