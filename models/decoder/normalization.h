#ifndef MODELS_DECODER_NORMALIZATION_H_
#define MODELS_DECODER_NORMALIZATION_H_

// Normalisations over the last dimension.  Thread-safe.

#include "ATen/core/Tensor.h"
#include "models/decoder/config.pb.h"
#include "models/decoder/parameter_view.h"

namespace waypoint::models {

// `parameters` holds weight and bias.  RMS: computed in float32 and cast back before the weight is applied, as
// transformers' LlamaRMSNorm; zero_centered: cast back after it, as its GemmaRMSNorm.
at::Tensor Normalize(const at::Tensor& x, const Normalization& normalization, const ParameterView& parameters);

}  // namespace waypoint::models

#endif  // MODELS_DECODER_NORMALIZATION_H_
