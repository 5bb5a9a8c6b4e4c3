#ifndef CHECKPOINT_FORMAT_EXTERNAL_HUGGING_FACE_FORMAT_H_
#define CHECKPOINT_FORMAT_EXTERNAL_HUGGING_FACE_FORMAT_H_

// Hugging Face model directories as a CheckpointFormat, for any family.
//
//   config.json                         from the native config and the original's carried keys
//   model.safetensors                   or model-00001-of-0000N.safetensors and model.safetensors.index.json; where
//                                       there is none, pytorch_model.bin or its shards and index are read
//   tokenizer.json, ...                 assets, byte for byte
//
// Every file that is written carries __metadata__ {"format": "pt"}, without which transformers refuses it.

#include <memory>

#include "checkpoint/format/checkpoint_format.h"
#include "checkpoint/format/external/hugging_face_family.h"

namespace waypoint {

std::unique_ptr<CheckpointFormat> NewHuggingFaceFormat(std::unique_ptr<HuggingFaceFamily> family);

}  // namespace waypoint

#endif  // CHECKPOINT_FORMAT_EXTERNAL_HUGGING_FACE_FORMAT_H_
