#include "models/llama/llama_weights.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "models/decoder/parameters.h"

namespace waypoint::models {
namespace {

constexpr char kOutputName[] = "lm_head.weight";

// A projection: its weight, and its bias where it has one.  The same rows are joined in both.
void AddLinear(const std::string& native, const std::vector<std::string>& external, const RelayoutPtr& relayout,
               bool bias, WeightRules* rules) {
  for (const char* suffix : {".weight", ".bias"}) {
    if (suffix == std::string(".bias") && !bias) {
      continue;
    }
    std::vector<std::string> names;
    for (const std::string& name : external) {
      names.push_back(name + suffix);
    }
    rules->Add(native + suffix, std::move(names), relayout);
  }
}

absl::Status AddBlock(const Block& block, const std::string& native, const std::string& external, WeightRules* rules) {
  if (!block.mixer().has_attention() || !block.mlp().has_dense() || !block.mlp().dense().gated()) {
    return MakeError(ErrorKind::kUnsupported,
                     absl::StrCat(native, ": a Llama block is attention and a gated dense MLP, this one is not"));
  }
  const Attention& attention = block.mixer().attention();
  const DenseMlp& mlp = block.mlp().dense();
  if (KeyHasBias(attention) != ValueHasBias(attention)) {
    return MakeError(ErrorKind::kUnsupported, absl::StrCat(native, ": key and value must both have a bias, or neither"));
  }
  const int64_t key_rows = attention.head_groups() * attention.head_size();
  AddLinear(native + ".mixer.query", {external + ".self_attn.q_proj"}, RenameRelayout(), QueryHasBias(attention), rules);
  AddLinear(native + ".mixer.key_value", {external + ".self_attn.k_proj", external + ".self_attn.v_proj"},
            ConcatRelayout({key_rows, key_rows}), KeyHasBias(attention), rules);
  AddLinear(native + ".mixer.dense", {external + ".self_attn.o_proj"}, RenameRelayout(), DenseHasBias(attention), rules);
  AddLinear(native + ".mlp.layer_1", {external + ".mlp.gate_proj", external + ".mlp.up_proj"},
            ConcatRelayout({mlp.intermediate_size(), mlp.intermediate_size()}), Layer1HasBias(mlp), rules);
  AddLinear(native + ".mlp.layer_2", {external + ".mlp.down_proj"}, RenameRelayout(), Layer2HasBias(mlp), rules);
  rules->Add(native + ".norm_1.weight", {external + ".input_layernorm.weight"});
  rules->Add(native + ".norm_2.weight", {external + ".post_attention_layernorm.weight"});
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<WeightRules> LlamaWeightRules(const DecoderConfig& config,
                                             const std::vector<std::string>& stored_copies) {
  WeightRules rules;
  rules.Add("embeddings.word_embeddings_weight", {"model.embed_tokens.weight"});
  for (int64_t i = 0; i < config.decoder().num_blocks(); ++i) {
    WAYPOINT_RETURN_IF_ERROR(
        AddBlock(BlockAt(config, i), absl::StrCat("decoder.", i), absl::StrCat("model.layers.", i), &rules));
  }
  rules.Add("head.final_norm.weight", {"model.norm.weight"});
  if (config.tied_embedding_weight()) {
    const bool emit = std::find(stored_copies.begin(), stored_copies.end(), kOutputName) != stored_copies.end();
    rules.AddCopy("embeddings.word_embeddings_weight", kOutputName, emit);
  } else {
    rules.Add("head.output_weights", {kOutputName});
  }
  const std::string reason = "rotary frequencies are computed from the config";
  rules.IgnoreExternal("model.layers.*.self_attn.rotary_emb.inv_freq", reason);
  rules.IgnoreExternal("model.rotary_emb.inv_freq", reason);
  return rules;
}

}  // namespace waypoint::models
