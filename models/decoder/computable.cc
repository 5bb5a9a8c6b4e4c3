// What DecoderModule refuses, by name.
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "models/decoder/block_parameters.h"
#include "models/decoder/decoder_module.h"
#include "models/decoder/parameters.h"

namespace waypoint::models {
namespace {

using Parts = std::vector<std::string>;

absl::Status Refuse(const char* what, const Parts& parts) {
  if (parts.empty()) {
    return absl::OkStatus();
  }
  return MakeError(ErrorKind::kUnsupported, absl::StrCat("the decoder module cannot ", what, " ", parts.size(),
                                                         parts.size() == 1 ? " part" : " parts",
                                                         " of the config: ", absl::StrJoin(parts, "; ")));
}

void RefuseNormalization(const std::string& path, bool present, const Normalization& normalization, Parts* parts) {
  if (present && normalization.kind() == Normalization::GATED_RMS_NORM) {
    parts->push_back(absl::StrCat(path, ".kind is GATED_RMS_NORM"));
  }
}

void RefuseAttention(const std::string& path, const Attention& attention, Parts* parts) {
  if (attention.rotary().has_proportional()) {
    parts->push_back(absl::StrCat(path, ".rotary.proportional is set"));
  }
  if (attention.shared_key_value()) {
    parts->push_back(absl::StrCat(path, ".shared_key_value is true"));
  }
  if (attention.has_window_size() && !attention.causal()) {
    parts->push_back(absl::StrCat(path, ".window_size is set without causal"));
  }
  RefuseNormalization(absl::StrCat(path, ".query_norm"), attention.has_query_norm(), attention.query_norm(), parts);
  RefuseNormalization(absl::StrCat(path, ".key_norm"), attention.has_key_norm(), attention.key_norm(), parts);
  RefuseNormalization(absl::StrCat(path, ".value_norm"), attention.has_value_norm(), attention.value_norm(), parts);
}

void RefuseMoe(const std::string& path, const MoeMlp& moe, Parts* parts) {
  if (moe.shared_experts() != 0) {
    parts->push_back(absl::StrCat(path, ".shared_experts is ", moe.shared_experts()));
  }
  if (moe.has_router_normalization() && moe.router_normalization().kind() != Normalization::NONE) {
    parts->push_back(absl::StrCat(path, ".router_normalization is set"));
  }
  if (moe.router_scale()) {
    parts->push_back(absl::StrCat(path, ".router_scale is true"));
  }
  if (moe.router_per_expert_scale()) {
    parts->push_back(absl::StrCat(path, ".router_per_expert_scale is true"));
  }
  if (moe.router_input_scale() != 1.0) {
    parts->push_back(absl::StrCat(path, ".router_input_scale is ", moe.router_input_scale()));
  }
  // Whether the router sees the normalised input differs between families.
  if (moe.expert().has_pre_norm()) {
    parts->push_back(absl::StrCat(path, ".expert.pre_norm is set"));
  }
  if (moe.expert().has_post_norm()) {
    parts->push_back(absl::StrCat(path, ".expert.post_norm is set"));
  }
}

void RefuseBlock(const std::string& path, const Block& block, Parts* parts) {
  const std::string mixer = absl::StrCat(path, ".mixer");
  if (block.mixer().has_attention()) {
    RefuseAttention(absl::StrCat(mixer, ".attention"), block.mixer().attention(), parts);
  } else {
    // Only the main mixer runs.
    const StochasticMixer& stochastic = block.mixer().stochastic();
    RefuseAttention(absl::StrCat(mixer, ".stochastic.mixers[\"", stochastic.main_mixer_name(), "\"].attention"),
                    stochastic.mixers().at(stochastic.main_mixer_name()).attention(), parts);
  }
  if (block.mlp().has_moe()) {
    RefuseMoe(absl::StrCat(path, ".mlp.moe"), block.mlp().moe(), parts);
  } else {
    const DenseMlp& dense = block.mlp().dense();
    RefuseNormalization(absl::StrCat(path, ".mlp.dense.pre_norm"), dense.has_pre_norm(), dense.pre_norm(), parts);
    RefuseNormalization(absl::StrCat(path, ".mlp.dense.post_norm"), dense.has_post_norm(), dense.post_norm(), parts);
  }
  RefuseNormalization(absl::StrCat(path, ".normalization"), true, block.normalization(), parts);
  RefuseNormalization(absl::StrCat(path, ".pre_mixer_normalization"), block.has_pre_mixer_normalization(),
                      block.pre_mixer_normalization(), parts);
  RefuseNormalization(absl::StrCat(path, ".pre_mlp_normalization"), block.has_pre_mlp_normalization(),
                      block.pre_mlp_normalization(), parts);
  RefuseNormalization(absl::StrCat(path, ".post_mixer_normalization"), block.has_post_mixer_normalization(),
                      block.post_mixer_normalization(), parts);
  RefuseNormalization(absl::StrCat(path, ".post_mlp_normalization"), block.has_post_mlp_normalization(),
                      block.post_mlp_normalization(), parts);
}

void RefuseTrainingBlock(const std::string& path, const Block& block, Parts* parts) {
  if (block.dropout() != 0) {
    parts->push_back(absl::StrCat(path, ".dropout is ", block.dropout()));
  }
  if (block.mixer().has_stochastic()) {
    parts->push_back(absl::StrCat(path, ".mixer.stochastic is set"));
  } else if (block.mixer().attention().dropout() != 0) {
    parts->push_back(absl::StrCat(path, ".mixer.attention.dropout is ", block.mixer().attention().dropout()));
  }
  if (!block.mlp().has_moe()) {
    return;
  }
  const MoeMlp& moe = block.mlp().moe();
  if (moe.auxiliary_loss_coefficient() != 0) {
    parts->push_back(absl::StrCat(path, ".mlp.moe.auxiliary_loss_coefficient is ", moe.auxiliary_loss_coefficient()));
  }
  if (moe.z_loss_coefficient() != 0) {
    parts->push_back(absl::StrCat(path, ".mlp.moe.z_loss_coefficient is ", moe.z_loss_coefficient()));
  }
  if (moe.jitter() != 0) {
    parts->push_back(absl::StrCat(path, ".mlp.moe.jitter is ", moe.jitter()));
  }
}

}  // namespace

absl::Status DecoderModule::CheckComputable(const DecoderConfig& config) {
  WAYPOINT_RETURN_IF_ERROR(ValidateConfig(config));
  Parts parts;
  for (const auto& [path, block] : DistinctBlocks(config)) {
    RefuseBlock(path, *block, &parts);
  }
  RefuseNormalization("head.normalization", true, config.head().normalization(), &parts);
  // In which order they apply is not settled between families.
  if (config.embeddings().has_num_position_embeddings() && config.embeddings().embedding_scale() != 1.0) {
    parts.push_back("embeddings.num_position_embeddings is set with an embedding_scale other than 1");
  }
  if (config.head().has_final_logit_softcap() && config.head().logits_scale_factor() != 1.0) {
    parts.push_back("head.final_logit_softcap is set with a logits_scale_factor other than 1");
  }
  return Refuse("compute", parts);
}

absl::Status DecoderModule::CheckTrainable(const DecoderConfig& config) {
  WAYPOINT_RETURN_IF_ERROR(CheckComputable(config));
  Parts parts;
  for (const auto& [path, block] : DistinctBlocks(config)) {
    RefuseTrainingBlock(path, *block, &parts);
  }
  if (config.head().prediction_heads() != 1) {
    parts.push_back(absl::StrCat("head.prediction_heads is ", config.head().prediction_heads()));
  }
  return Refuse("train", parts);
}

}  // namespace waypoint::models
