#ifndef MODELS_DECODER_PARAMETERS_H_
#define MODELS_DECODER_PARAMETERS_H_

// Names and shapes of a decoder's parameters, derived from its config alone.  Does not link libtorch.
//
// Names: fast_llm's; layout: whatever lets Hugging Face weights come in by moving runs of bytes only.
//
//   embeddings.word_embeddings_weight               (V, H)
//   decoder.{i}.norm_1.weight, norm_2.weight        (H)  (+ .bias for layer norm)
//   decoder.{i}.mixer.query.weight                  (heads * head_size, H)
//   decoder.{i}.mixer.key_value.weight              (2 * head_groups * head_size, H): K rows, then V rows
//   decoder.{i}.mixer.dense.weight                  (H, heads * head_size)
//   decoder.{i}.mlp.layer_1.weight                  (2I, H) gated: gate rows, then up rows; (I, H) plain
//   decoder.{i}.mlp.layer_2.weight                  (H, I)
//   head.final_norm.weight, head.output_weights     (H), (V, H); output_weights only when not tied
//   Biases: one number for each row of the weight beside them (.bias).  A key_value.bias of which only keys or only
//     values have one has their half of the rows; shared_key_value: key_value has only one half, with the key's bias.
//   MoE: mlp.router.weight (E, H), mlp.layer_1.weight (E, 2I, H), mlp.layer_2.weight (E, H, I), biases (E, rows)
//   Where the config has them: embeddings.position_embeddings_weight (positions, H);
//     mixer.query_norm, .key_norm, .value_norm (head_size); post_mixer_norm, post_mlp_norm, mlp.pre_norm, mlp.post_norm
//     (H); output_scale (1); stochastic mixers: mixer.mixers.{name}.query.weight and so on
//   multi_token_prediction.blocks.{j}.*, .heads.{j}.final_norm.weight, j = 0..prediction_heads - 2
//
// Thread-safe.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoint/tensor/manifest.h"
#include "models/decoder/config.pb.h"

namespace waypoint::models {

// Checks every number of a config: positive sizes, divisible heads, finite positive epsilons and theta, products that
// fit 63 bits; at most 65,536 blocks, so that a loop over the layers of a validated config is short.  All problems in
// one E_CONFIG error, each with its field path and value.
absl::Status ValidateConfig(const DecoderConfig& config);

// The block at layer `index` (0 <= index < num_blocks) of a validated config.
const Block& BlockAt(const DecoderConfig& config, int64_t index);

// Whether a projection has a bias.
bool QueryHasBias(const Attention& attention);
bool KeyHasBias(const Attention& attention);
bool ValueHasBias(const Attention& attention);
bool DenseHasBias(const Attention& attention);
bool Layer1HasBias(const DenseMlp& mlp);
bool Layer2HasBias(const DenseMlp& mlp);

// Every parameter, in the order of the forward pass, with the given element type.
// Errors: E_CONFIG as ValidateConfig; E_UNSUPPORTED for parts whose parameters are not defined yet.
absl::StatusOr<Manifest> ParameterManifest(const DecoderConfig& config, DType dtype);

// Paths and values of the architecture fields in which two configs differ, "head.prediction_heads: 1 != 2".  Empty when
// they agree.
std::vector<std::string> CompareArchitecture(const DecoderConfig& a, const DecoderConfig& b);

}  // namespace waypoint::models

#endif  // MODELS_DECODER_PARAMETERS_H_
