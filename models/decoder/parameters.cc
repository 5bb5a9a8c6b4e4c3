#include "models/decoder/parameters.h"

#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "models/decoder/block_parameters.h"

namespace waypoint::models {
namespace {

absl::Status AddAll(absl::string_view prefix, const std::vector<ParameterShape>& parameters, DType dtype,
                    Manifest* manifest) {
  for (const ParameterShape& parameter : parameters) {
    WAYPOINT_RETURN_IF_ERROR(manifest->Add({absl::StrCat(prefix, parameter.name), dtype, parameter.shape, {}}));
  }
  return absl::OkStatus();
}

// Each distinct block once, with the path of its message.
std::vector<std::pair<std::string, const Block*>> DistinctBlocks(const BlockSequence& sequence) {
  if (sequence.has_fixed()) {
    return {{"decoder.fixed", &sequence.fixed()}};
  }
  std::vector<std::pair<std::string, const Block*>> blocks;
  const std::set<std::string> names(sequence.pattern().pattern().begin(), sequence.pattern().pattern().end());
  for (const std::string& name : names) {
    blocks.emplace_back(absl::StrCat("decoder.pattern.blocks[\"", name, "\"]"), &sequence.pattern().blocks().at(name));
  }
  return blocks;
}

}  // namespace

const Block& BlockAt(const DecoderConfig& config, int64_t index) {
  const BlockSequence& sequence = config.decoder();
  if (!sequence.has_pattern()) {
    return sequence.fixed();
  }
  const BlockPattern& pattern = sequence.pattern();
  return pattern.blocks().at(pattern.pattern(static_cast<int>(index % pattern.pattern_size())));
}

bool QueryHasBias(const Attention& attention) {
  return attention.has_query_bias() ? attention.query_bias() : attention.add_linear_biases();
}

bool KeyHasBias(const Attention& attention) {
  return attention.has_key_bias() ? attention.key_bias() : attention.add_linear_biases();
}

bool ValueHasBias(const Attention& attention) {
  return attention.has_value_bias() ? attention.value_bias() : attention.add_linear_biases();
}

bool DenseHasBias(const Attention& attention) {
  return attention.has_dense_bias() ? attention.dense_bias() : attention.add_linear_biases();
}

bool Layer1HasBias(const DenseMlp& mlp) {
  return mlp.has_layer_1_bias() ? mlp.layer_1_bias() : mlp.add_linear_biases();
}

bool Layer2HasBias(const DenseMlp& mlp) {
  return mlp.has_layer_2_bias() ? mlp.layer_2_bias() : mlp.add_linear_biases();
}

absl::StatusOr<Manifest> ParameterManifest(const DecoderConfig& config, DType dtype) {
  WAYPOINT_RETURN_IF_ERROR(ValidateConfig(config));

  const int64_t hidden_size = config.hidden_size();
  std::vector<std::string> undefined;
  for (const auto& [path, block] : DistinctBlocks(config.decoder())) {
    for (const std::string& part : ListBlockParameters(*block, hidden_size).undefined) {
      undefined.push_back(absl::StrCat(path, ".", part));
    }
  }
  BlockParameters final_norm;
  AppendNormalization(config.head().normalization(), "final_norm", "head.normalization", hidden_size, &final_norm);
  undefined.insert(undefined.end(), final_norm.undefined.begin(), final_norm.undefined.end());
  if (!undefined.empty()) {
    return MakeError(ErrorKind::kUnsupported, absl::StrCat("parameters are not defined for ", undefined.size(),
                                                           " parts: ", absl::StrJoin(undefined, "; ")));
  }

  Manifest manifest;
  WAYPOINT_RETURN_IF_ERROR(
      manifest.Add({"embeddings.word_embeddings_weight", dtype, {config.vocab_size(), hidden_size}, {}}));
  if (config.embeddings().has_num_position_embeddings()) {
    WAYPOINT_RETURN_IF_ERROR(manifest.Add({"embeddings.position_embeddings_weight",
                                           dtype,
                                           {config.embeddings().num_position_embeddings(), hidden_size},
                                           {}}));
  }
  const int64_t num_blocks = config.decoder().num_blocks();
  for (int64_t i = 0; i < num_blocks; ++i) {
    WAYPOINT_RETURN_IF_ERROR(AddAll(absl::StrCat("decoder.", i, "."),
                                    ListBlockParameters(BlockAt(config, i), hidden_size).parameters, dtype, &manifest));
  }
  WAYPOINT_RETURN_IF_ERROR(AddAll("head.", final_norm.parameters, dtype, &manifest));
  if (!config.tied_embedding_weight()) {
    WAYPOINT_RETURN_IF_ERROR(manifest.Add({"head.output_weights", dtype, {config.vocab_size(), hidden_size}, {}}));
  }
  // Further prediction heads: each one more block like the last, and its own final normalisation.
  for (int64_t j = 0; j + 1 < config.head().prediction_heads(); ++j) {
    const BlockParameters block = ListBlockParameters(BlockAt(config, num_blocks - 1), hidden_size);
    WAYPOINT_RETURN_IF_ERROR(
        AddAll(absl::StrCat("multi_token_prediction.blocks.", j, "."), block.parameters, dtype, &manifest));
    WAYPOINT_RETURN_IF_ERROR(
        AddAll(absl::StrCat("multi_token_prediction.heads.", j, "."), final_norm.parameters, dtype, &manifest));
  }
  return manifest;
}

}  // namespace waypoint::models
