#ifndef MODELS_DECODER_MLP_H_
#define MODELS_DECODER_MLP_H_

// Plain and gated MLPs, and mixtures of them.  Thread-safe.

#include "ATen/core/Tensor.h"
#include "models/decoder/config.pb.h"
#include "models/decoder/parameter_view.h"
#include "models/decoder/tensor_parallel.h"

namespace waypoint::models {

// x: [batch, length, H]; the same shape back.  With `ranks`, `mlp` tells what of the channels is here; mixtures are not
// cut over ranks.
at::Tensor RunMlp(const at::Tensor& x, const Mlp& mlp, const ParameterView& parameters, TensorRanks* ranks);

}  // namespace waypoint::models

#endif  // MODELS_DECODER_MLP_H_
