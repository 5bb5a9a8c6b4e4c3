#ifndef MODELS_LLAMA_FAIRSEQ2_STATE_DICT_H_
#define MODELS_LLAMA_FAIRSEQ2_STATE_DICT_H_

// What of a file is the model.
//
//   {"model": {...}, "model_key": "model", "fs2": True, ...}    0.3 and 0.4; the key may be another one
//   {...}                                                       0.5 and later, in trees of files
//
// Thread-safe.

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "checkpoint/container/torch_zip/torch_contents.h"

namespace waypoint::models {

// Key of the file's dict -> number of tensors there.
using LeftBehind = std::map<std::string, int64_t>;

// Leaves in `contents` the tensors of the state dict, without the key before their names, and adds the other keys to
// `left_behind`.
// Errors: E_SCHEMA for a model_key that is no text, E_MISSING when nothing is under it.
absl::Status TakeStateDict(TorchContents* contents, LeftBehind* left_behind);

}  // namespace waypoint::models

#endif  // MODELS_LLAMA_FAIRSEQ2_STATE_DICT_H_
