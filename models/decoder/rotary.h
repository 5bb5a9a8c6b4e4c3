#ifndef MODELS_DECODER_ROTARY_H_
#define MODELS_DECODER_ROTARY_H_

// Rotary position embeddings in halves: channel i turns with channel i + head_size / 2 (Hugging Face's order).
//
// The tables are made in float32, step by step as transformers does (modeling_rope_utils.py), because at long
// distances the rounding of a frequency is visible in the logits.  Thread-safe.

#include <cstdint>

#include "ATen/core/Tensor.h"
#include "models/decoder/config.pb.h"

namespace waypoint::models {

struct RotaryFrequencies {
  // float32 [head_size / 2]: radians per position.
  at::Tensor inverse;
  // Both cosines and sines are multiplied by it; 1 but for yarn.
  double attention_factor = 1;
};

// `length` is that of the sequence, which changes the frequencies of dynamic rotary only.  The config is validated, and
// its kind neither none nor proportional.
RotaryFrequencies ComputeFrequencies(const Rotary& rotary, int64_t head_size, int64_t length);

// cos and sin of [length, head_size], both halves the same, in the given dtype; undefined tensors for `none`.
struct RotaryTable {
  at::Tensor cos;
  at::Tensor sin;
};

RotaryTable ComputeTable(const Rotary& rotary, int64_t head_size, int64_t length, const at::TensorOptions& options);

// x: [..., length, head_size].  x itself when the table is undefined.
at::Tensor ApplyRotary(const at::Tensor& x, const RotaryTable& table);

}  // namespace waypoint::models

#endif  // MODELS_DECODER_ROTARY_H_
