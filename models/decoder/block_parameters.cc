#include "models/decoder/block_parameters.h"

#include <algorithm>
#include <initializer_list>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "models/decoder/parameters.h"

namespace waypoint::models {
namespace {

void Append(std::string name, Dims shape, BlockParameters* result, FirstValue first_value = FirstValue::kNormal) {
  result->parameters.push_back({std::move(name), std::move(shape), first_value});
}

void AppendAttention(const Attention& attention, absl::string_view prefix, absl::string_view field, int64_t hidden_size,
                     BlockParameters* result) {
  const int64_t query_rows = attention.heads() * attention.head_size();
  const int64_t group_rows = attention.head_groups() * attention.head_size();
  Append(absl::StrCat(prefix, "query.weight"), {query_rows, hidden_size}, result);
  if (QueryHasBias(attention)) {
    Append(absl::StrCat(prefix, "query.bias"), {query_rows}, result, FirstValue::kZero);
  }
  const int64_t projections = attention.shared_key_value() ? 1 : 2;
  Append(absl::StrCat(prefix, "key_value.weight"), {projections * group_rows, hidden_size}, result);
  int64_t biased = KeyHasBias(attention) ? 1 : 0;
  if (!attention.shared_key_value() && ValueHasBias(attention)) {
    ++biased;
  }
  if (biased > 0) {
    Append(absl::StrCat(prefix, "key_value.bias"), {biased * group_rows}, result, FirstValue::kZero);
  }
  if (attention.has_query_norm()) {
    AppendNormalization(attention.query_norm(), absl::StrCat(prefix, "query_norm"), absl::StrCat(field, ".query_norm"),
                        attention.head_size(), result);
  }
  if (attention.has_key_norm()) {
    AppendNormalization(attention.key_norm(), absl::StrCat(prefix, "key_norm"), absl::StrCat(field, ".key_norm"),
                        attention.head_size(), result);
  }
  if (attention.has_value_norm()) {
    AppendNormalization(attention.value_norm(), absl::StrCat(prefix, "value_norm"), absl::StrCat(field, ".value_norm"),
                        attention.head_size(), result);
  }
  Append(absl::StrCat(prefix, "dense.weight"), {hidden_size, query_rows}, result);
  if (DenseHasBias(attention)) {
    Append(absl::StrCat(prefix, "dense.bias"), {hidden_size}, result, FirstValue::kZero);
  }
}

void AppendMixer(const Mixer& mixer, int64_t hidden_size, BlockParameters* result) {
  if (mixer.has_attention()) {
    AppendAttention(mixer.attention(), "mixer.", "mixer.attention", hidden_size, result);
    return;
  }
  // A protobuf map has no order of its own.
  std::vector<std::string> names;
  for (const auto& entry : mixer.stochastic().mixers()) {
    names.push_back(entry.first);
  }
  std::sort(names.begin(), names.end());
  for (const std::string& name : names) {
    AppendAttention(mixer.stochastic().mixers().at(name).attention(), absl::StrCat("mixer.mixers.", name, "."),
                    absl::StrCat("mixer.stochastic.mixers[\"", name, "\"].attention"), hidden_size, result);
  }
}

// Dense: no leading dimension.  Experts: stacked along dimension 0.
void AppendLinears(const DenseMlp& mlp, const Dims& leading, int64_t hidden_size, BlockParameters* result) {
  const auto shape = [&leading](std::initializer_list<int64_t> dims) {
    Dims stacked = leading;
    stacked.insert(stacked.end(), dims.begin(), dims.end());
    return stacked;
  };
  const int64_t rows = mlp.intermediate_size() * (mlp.gated() ? 2 : 1);
  Append("mlp.layer_1.weight", shape({rows, hidden_size}), result);
  if (Layer1HasBias(mlp)) {
    Append("mlp.layer_1.bias", shape({rows}), result, FirstValue::kZero);
  }
  Append("mlp.layer_2.weight", shape({hidden_size, mlp.intermediate_size()}), result);
  if (Layer2HasBias(mlp)) {
    Append("mlp.layer_2.bias", shape({hidden_size}), result, FirstValue::kZero);
  }
}

void AppendMoe(const MoeMlp& moe, int64_t hidden_size, BlockParameters* result) {
  if (moe.shared_experts() != 0) {
    result->undefined.push_back(absl::StrCat("mlp.moe.shared_experts is ", moe.shared_experts()));
  }
  if (moe.has_router_normalization() && moe.router_normalization().kind() != Normalization::NONE) {
    result->undefined.push_back("mlp.moe.router_normalization is set");
  }
  if (moe.router_scale()) {
    result->undefined.push_back("mlp.moe.router_scale is true");
  }
  if (moe.router_per_expert_scale()) {
    result->undefined.push_back("mlp.moe.router_per_expert_scale is true");
  }
  Append("mlp.router.weight", {moe.experts(), hidden_size}, result);
  AppendLinears(moe.expert(), {moe.experts()}, hidden_size, result);
}

void AppendMlp(const Mlp& mlp, int64_t hidden_size, BlockParameters* result) {
  const bool dense = mlp.has_dense();
  const DenseMlp& linears = dense ? mlp.dense() : mlp.moe().expert();
  const absl::string_view field = dense ? "mlp.dense" : "mlp.moe.expert";
  if (linears.has_pre_norm()) {
    AppendNormalization(linears.pre_norm(), "mlp.pre_norm", absl::StrCat(field, ".pre_norm"), hidden_size, result);
  }
  if (dense) {
    AppendLinears(linears, {}, hidden_size, result);
  } else {
    AppendMoe(mlp.moe(), hidden_size, result);
  }
  if (linears.has_post_norm()) {
    AppendNormalization(linears.post_norm(), "mlp.post_norm", absl::StrCat(field, ".post_norm"), hidden_size, result);
  }
}

}  // namespace

void AppendNormalization(const Normalization& normalization, absl::string_view name, absl::string_view field,
                         int64_t size, BlockParameters* result) {
  const FirstValue weight = normalization.zero_centered() ? FirstValue::kZero : FirstValue::kOne;
  switch (normalization.kind()) {
    case Normalization::RMS_NORM:
      Append(absl::StrCat(name, ".weight"), {size}, result, weight);
      return;
    case Normalization::LAYER_NORM:
      Append(absl::StrCat(name, ".weight"), {size}, result, weight);
      Append(absl::StrCat(name, ".bias"), {size}, result, FirstValue::kZero);
      return;
    case Normalization::NONE:
    case Normalization::FIXED_RMS_NORM:
      return;
    default:
      result->undefined.push_back(absl::StrCat(field, ".kind is ", Normalization::Kind_Name(normalization.kind())));
  }
}

const Normalization& PreMixerNormalization(const Block& block) {
  return block.has_pre_mixer_normalization() ? block.pre_mixer_normalization() : block.normalization();
}

const Normalization& PreMlpNormalization(const Block& block) {
  return block.has_pre_mlp_normalization() ? block.pre_mlp_normalization() : block.normalization();
}

BlockParameters ListBlockParameters(const Block& block, int64_t hidden_size) {
  BlockParameters result;
  AppendNormalization(PreMixerNormalization(block), "norm_1",
                      block.has_pre_mixer_normalization() ? "pre_mixer_normalization" : "normalization", hidden_size,
                      &result);
  AppendMixer(block.mixer(), hidden_size, &result);
  if (block.has_post_mixer_normalization()) {
    AppendNormalization(block.post_mixer_normalization(), "post_mixer_norm", "post_mixer_normalization", hidden_size,
                        &result);
  }
  AppendNormalization(PreMlpNormalization(block), "norm_2",
                      block.has_pre_mlp_normalization() ? "pre_mlp_normalization" : "normalization", hidden_size,
                      &result);
  AppendMlp(block.mlp(), hidden_size, &result);
  if (block.has_post_mlp_normalization()) {
    AppendNormalization(block.post_mlp_normalization(), "post_mlp_norm", "post_mlp_normalization", hidden_size,
                        &result);
  }
  if (block.output_scale()) {
    Append("output_scale", {1}, &result, FirstValue::kOne);
  }
  return result;
}

std::vector<std::pair<std::string, const Block*>> DistinctBlocks(const DecoderConfig& config) {
  const BlockSequence& sequence = config.decoder();
  if (sequence.has_fixed()) {
    return {{"decoder.fixed", &sequence.fixed()}};
  }
  const int64_t used = std::min<int64_t>(sequence.pattern().pattern_size(), sequence.num_blocks());
  const std::set<std::string> names(sequence.pattern().pattern().begin(), sequence.pattern().pattern().begin() + used);
  std::vector<std::pair<std::string, const Block*>> blocks;
  for (const std::string& name : names) {
    blocks.emplace_back(absl::StrCat("decoder.pattern.blocks[\"", name, "\"]"), &sequence.pattern().blocks().at(name));
  }
  return blocks;
}

BlockParameters ListParameters(const DecoderConfig& config) {
  const int64_t hidden_size = config.hidden_size();
  BlockParameters all;
  const auto append_all = [&all](absl::string_view prefix, const BlockParameters& part) {
    for (const ParameterShape& parameter : part.parameters) {
      Append(absl::StrCat(prefix, parameter.name), parameter.shape, &all, parameter.first_value);
    }
  };
  for (const auto& [path, block] : DistinctBlocks(config)) {
    for (const std::string& part : ListBlockParameters(*block, hidden_size).undefined) {
      all.undefined.push_back(absl::StrCat(path, ".", part));
    }
  }
  BlockParameters final_norm;
  AppendNormalization(config.head().normalization(), "final_norm", "head.normalization", hidden_size, &final_norm);
  all.undefined.insert(all.undefined.end(), final_norm.undefined.begin(), final_norm.undefined.end());

  Append("embeddings.word_embeddings_weight", {config.vocab_size(), hidden_size}, &all);
  if (config.embeddings().has_num_position_embeddings()) {
    Append("embeddings.position_embeddings_weight", {config.embeddings().num_position_embeddings(), hidden_size}, &all);
  }
  const int64_t num_blocks = config.decoder().num_blocks();
  for (int64_t i = 0; i < num_blocks; ++i) {
    append_all(absl::StrCat("decoder.", i, "."), ListBlockParameters(BlockAt(config, i), hidden_size));
  }
  append_all("head.", final_norm);
  if (!config.tied_embedding_weight()) {
    Append("head.output_weights", {config.vocab_size(), hidden_size}, &all);
  }
  // Further prediction heads: each one more block like the last, and its own final normalisation.
  for (int64_t j = 0; j + 1 < config.head().prediction_heads(); ++j) {
    append_all(absl::StrCat("multi_token_prediction.blocks.", j, "."),
               ListBlockParameters(BlockAt(config, num_blocks - 1), hidden_size));
    append_all(absl::StrCat("multi_token_prediction.heads.", j, "."), final_norm);
  }
  return all;
}

}  // namespace waypoint::models
