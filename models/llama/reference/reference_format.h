#ifndef MODELS_LLAMA_REFERENCE_REFERENCE_FORMAT_H_
#define MODELS_LLAMA_REFERENCE_REFERENCE_FORMAT_H_

// Directories of Meta's reference code, params.json and consolidated.NN.pth, for every generation of Llama.

#include <memory>

#include "checkpoint/format/checkpoint_format.h"

namespace waypoint::models {

std::unique_ptr<CheckpointFormat> NewReferenceFormat();

}  // namespace waypoint::models

#endif  // MODELS_LLAMA_REFERENCE_REFERENCE_FORMAT_H_
