#include "models/decoder/parameters.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "models/decoder/block_parameters.h"

namespace waypoint::models {
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

  BlockParameters all = ListParameters(config);
  if (!all.undefined.empty()) {
    return MakeError(ErrorKind::kUnsupported,
                     absl::StrCat("parameters are not defined for ", all.undefined.size(),
                                  " parts of the decoder config: ", absl::StrJoin(all.undefined, "; ")));
  }
  Manifest manifest;
  for (ParameterShape& parameter : all.parameters) {
    WAYPOINT_RETURN_IF_ERROR(manifest.Add({std::move(parameter.name), dtype, std::move(parameter.shape), {}}));
  }
  return manifest;
}

}  // namespace waypoint::models
