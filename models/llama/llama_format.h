#ifndef MODELS_LLAMA_LLAMA_FORMAT_H_
#define MODELS_LLAMA_LLAMA_FORMAT_H_

// Hugging Face directories of LlamaForCausalLM: Llama 1 to 3.x and whatever shares their architecture.

#include <memory>

#include "checkpoint/format/checkpoint_format.h"

namespace waypoint::models {

std::unique_ptr<CheckpointFormat> NewLlamaFormat();

}  // namespace waypoint::models

#endif  // MODELS_LLAMA_LLAMA_FORMAT_H_
