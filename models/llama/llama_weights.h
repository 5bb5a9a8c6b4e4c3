#ifndef MODELS_LLAMA_LLAMA_WEIGHTS_H_
#define MODELS_LLAMA_LLAMA_WEIGHTS_H_

// Tensor names of transformers' LlamaForCausalLM and the native ones.  Thread-safe.
//
//   model.embed_tokens.weight                              embeddings.word_embeddings_weight
//   model.layers.{i}.self_attn.q_proj                      decoder.{i}.mixer.query
//   model.layers.{i}.self_attn.{k,v}_proj                  decoder.{i}.mixer.key_value          K rows, then V rows
//   model.layers.{i}.self_attn.o_proj                      decoder.{i}.mixer.dense
//   model.layers.{i}.mlp.{gate,up}_proj                    decoder.{i}.mlp.layer_1              gate rows, then up rows
//   model.layers.{i}.mlp.down_proj                         decoder.{i}.mlp.layer_2
//   model.layers.{i}.{input,post_attention}_layernorm      decoder.{i}.norm_1, norm_2
//   model.norm.weight                                      head.final_norm.weight
//   lm_head.weight                                         head.output_weights                  absent when tied
//
// Source: transformers, models/llama/modeling_llama.py.

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "checkpoint/convert/weights/weight_rules.h"
#include "models/decoder/config.pb.h"

namespace waypoint::models {

// Rules of a validated config.  `stored_copies` may hold "lm_head.weight": a tied checkpoint that stores it all the same.
// Errors: E_UNSUPPORTED for what these names cannot say.
absl::StatusOr<WeightRules> LlamaWeightRules(const DecoderConfig& config, const std::vector<std::string>& stored_copies);

}  // namespace waypoint::models

#endif  // MODELS_LLAMA_LLAMA_WEIGHTS_H_
