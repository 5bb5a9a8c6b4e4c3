#ifndef MODELS_LLAMA_FAIRSEQ2_FAIRSEQ2_FORMAT_H_
#define MODELS_LLAMA_FAIRSEQ2_FAIRSEQ2_FORMAT_H_

// Llama checkpoints of fairseq2; see README.md.

#include <memory>

#include "checkpoint/format/checkpoint_format.h"

namespace waypoint::models {

std::unique_ptr<CheckpointFormat> NewFairseq2Format();

}  // namespace waypoint::models

#endif  // MODELS_LLAMA_FAIRSEQ2_FAIRSEQ2_FORMAT_H_
