#ifndef MODELS_DECODER_ATTENTION_H_
#define MODELS_DECODER_ATTENTION_H_

// Softmax attention with grouped key/value heads.  Thread-safe.

#include <cstdint>

#include "ATen/core/Tensor.h"
#include "models/decoder/config.pb.h"
#include "models/decoder/parameter_view.h"
#include "models/decoder/rotary.h"
#include "models/decoder/tensor_parallel.h"

namespace waypoint::models {

// Bool [length, length], true where row's position must not see column's; undefined when all see all.
at::Tensor HiddenPositions(const Attention& attention, int64_t length, const at::Device& device);

// x: [batch, length, H]; the same shape back.  Key/value head g serves the query heads g * (heads / head_groups) and
// following.  Scores are [batch, heads, length, length] and softmax runs in float32.  With `ranks`, `attention` tells
// what of the heads is here; null: all.
at::Tensor Attend(const at::Tensor& x, const Attention& attention, const ParameterView& parameters,
                  const RotaryTable& rotary, const at::Tensor& hidden_positions, TensorRanks* ranks);

}  // namespace waypoint::models

#endif  // MODELS_DECODER_ATTENTION_H_
