#include "models/decoder/normal_form.h"

#include <algorithm>

#include "google/protobuf/util/message_differencer.h"

namespace waypoint::models {
namespace {

using google::protobuf::util::MessageDifferencer;

void NormalizeAttention(Attention* attention) {
  const bool common = attention->add_linear_biases();
  if (attention->has_query_bias() && attention->query_bias() == common) {
    attention->clear_query_bias();
  }
  if (attention->has_key_bias() && attention->key_bias() == common) {
    attention->clear_key_bias();
  }
  if (attention->has_value_bias() && attention->value_bias() == common) {
    attention->clear_value_bias();
  }
  if (attention->has_dense_bias() && attention->dense_bias() == common) {
    attention->clear_dense_bias();
  }
}

void NormalizeMixer(Mixer* mixer) {
  if (mixer->has_attention()) {
    NormalizeAttention(mixer->mutable_attention());
  } else if (mixer->has_stochastic()) {
    for (auto& [name, inner] : *mixer->mutable_stochastic()->mutable_mixers()) {
      NormalizeMixer(&inner);
    }
  }
}

void NormalizeMlp(DenseMlp* mlp) {
  if (mlp->has_layer_1_bias() && mlp->layer_1_bias() == mlp->add_linear_biases()) {
    mlp->clear_layer_1_bias();
  }
  if (mlp->has_layer_2_bias() && mlp->layer_2_bias() == mlp->add_linear_biases()) {
    mlp->clear_layer_2_bias();
  }
}

void NormalizeBlock(Block* block) {
  if (block->has_mixer()) {
    NormalizeMixer(block->mutable_mixer());
  }
  if (block->mlp().has_dense()) {
    NormalizeMlp(block->mutable_mlp()->mutable_dense());
  } else if (block->mlp().has_moe()) {
    NormalizeMlp(block->mutable_mlp()->mutable_moe()->mutable_expert());
  }
  const Normalization& common = block->normalization();
  if (block->has_pre_mixer_normalization() && MessageDifferencer::Equals(block->pre_mixer_normalization(), common)) {
    block->clear_pre_mixer_normalization();
  }
  if (block->has_pre_mlp_normalization() && MessageDifferencer::Equals(block->pre_mlp_normalization(), common)) {
    block->clear_pre_mlp_normalization();
  }
}

}  // namespace

DecoderConfig NormalForm(const DecoderConfig& config) {
  DecoderConfig normal = config;
  if (normal.decoder().has_fixed()) {
    NormalizeBlock(normal.mutable_decoder()->mutable_fixed());
    return normal;
  }
  if (!normal.decoder().has_pattern() || normal.decoder().pattern().blocks().empty()) {
    return normal;
  }
  auto* blocks = normal.mutable_decoder()->mutable_pattern()->mutable_blocks();
  for (auto& [name, block] : *blocks) {
    NormalizeBlock(&block);
  }
  const Block first = blocks->begin()->second;
  const bool equal = std::all_of(blocks->begin(), blocks->end(),
                                 [&](const auto& entry) { return MessageDifferencer::Equals(entry.second, first); });
  if (equal) {
    *normal.mutable_decoder()->mutable_fixed() = first;
  }
  return normal;
}

}  // namespace waypoint::models
