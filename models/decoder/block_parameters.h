#ifndef MODELS_DECODER_BLOCK_PARAMETERS_H_
#define MODELS_DECODER_BLOCK_PARAMETERS_H_

// Names and shapes of the parameters of one block, from sizes that the caller has bounded (no dimension overflows when
// every size of the block is at most 2^30).  Thread-safe.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "checkpoint/tensor/box.h"
#include "models/decoder/config.pb.h"

namespace waypoint::models {

struct ParameterShape {
  std::string name;
  Dims shape;
};

struct BlockParameters {
  // In the order of the forward pass; names relative to the block ("mixer.query.weight").
  std::vector<ParameterShape> parameters;
  // "mlp.moe.shared_experts is 1": parts whose parameters are not defined; `parameters` lacks theirs.
  std::vector<std::string> undefined;
};

BlockParameters ListBlockParameters(const Block& block, int64_t hidden_size);

// The parameters of one normalisation over `size` channels; `field` is its path in messages about undefined ones.
void AppendNormalization(const Normalization& normalization, absl::string_view name, absl::string_view field,
                         int64_t size, BlockParameters* result);

// norm_1 and norm_2: the block's normalisation unless it is overridden.
const Normalization& PreMixerNormalization(const Block& block);
const Normalization& PreMlpNormalization(const Block& block);

}  // namespace waypoint::models

#endif  // MODELS_DECODER_BLOCK_PARAMETERS_H_
