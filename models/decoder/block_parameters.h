#ifndef MODELS_DECODER_BLOCK_PARAMETERS_H_
#define MODELS_DECODER_BLOCK_PARAMETERS_H_

// What parameters.h and the module share: names, shapes and first values of parameters, from sizes that the caller has
// bounded (no dimension overflows when every size is at most 2^30).  Thread-safe.

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "checkpoint/tensor/box.h"
#include "models/decoder/config.pb.h"

namespace waypoint::models {

enum class FirstValue { kNormal, kOne, kZero };

struct ParameterShape {
  std::string name;
  Dims shape;
  // How training from nothing starts.
  FirstValue first_value = FirstValue::kNormal;
};

struct BlockParameters {
  // In the order of the forward pass; names relative to the block ("mixer.query.weight").
  std::vector<ParameterShape> parameters;
  // "mlp.moe.shared_experts is 1": parts whose parameters are not defined; `parameters` lacks theirs.
  std::vector<std::string> undefined;
};

BlockParameters ListBlockParameters(const Block& block, int64_t hidden_size);

// All parameters of a validated config, with whole names and, in `undefined`, whole field paths.
BlockParameters ListParameters(const DecoderConfig& config);

// Each block that some layer uses once, with its path ("decoder.pattern.blocks[\"local\"]"), sorted by it.
std::vector<std::pair<std::string, const Block*>> DistinctBlocks(const DecoderConfig& config);

// The parameters of one normalisation over `size` channels; `field` is its path in messages about undefined ones.
void AppendNormalization(const Normalization& normalization, absl::string_view name, absl::string_view field,
                         int64_t size, BlockParameters* result);

// norm_1 and norm_2: the block's normalisation unless it is overridden.
const Normalization& PreMixerNormalization(const Block& block);
const Normalization& PreMlpNormalization(const Block& block);

}  // namespace waypoint::models

#endif  // MODELS_DECODER_BLOCK_PARAMETERS_H_
