#ifndef MODELS_DECODER_NORMAL_FORM_H_
#define MODELS_DECODER_NORMAL_FORM_H_

// One spelling for configs that mean the same, so that a format that can express the model is not refused for how its
// config was written.  Thread-safe.

#include "models/decoder/config.pb.h"

namespace waypoint::models {

// Clears biases and normalisations that override the common one with the same, and turns a pattern of equal blocks into
// a fixed block.  The model is the same.
DecoderConfig NormalForm(const DecoderConfig& config);

}  // namespace waypoint::models

#endif  // MODELS_DECODER_NORMAL_FORM_H_
