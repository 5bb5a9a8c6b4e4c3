#ifndef MODELS_LLAMA_FAIRSEQ2_NAMES_H_
#define MODELS_LLAMA_FAIRSEQ2_NAMES_H_

// Tensor names of fairseq2, for the same tensors as Meta's reference code, cut the same way over tensor-parallel ranks.
// Source: facebookresearch/fairseq2 0.3 to 0.8, models/llama, convert_llama_checkpoint and its tensor-parallel table.
// Thread-safe.

#include "models/llama/reference/weights.h"

namespace waypoint::models {

inline constexpr LlamaNames kFairseq2Names = {"fairseq2",
                                              "decoder_frontend.embed.weight",
                                              "decoder.layers.",
                                              "self_attn.q_proj.weight",
                                              "self_attn.k_proj.weight",
                                              "self_attn.v_proj.weight",
                                              "self_attn.output_proj.weight",
                                              "ffn.gate_proj.weight",
                                              "ffn.inner_proj.weight",
                                              "ffn.output_proj.weight",
                                              "self_attn_layer_norm.weight",
                                              "ffn_layer_norm.weight",
                                              "decoder.layer_norm.weight",
                                              "final_proj.weight"};

}  // namespace waypoint::models

#endif  // MODELS_LLAMA_FAIRSEQ2_NAMES_H_
