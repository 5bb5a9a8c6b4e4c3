#include "models/decoder/decoder_module.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "ATen/ATen.h"
#include "ATen/CPUGeneratorImpl.h"
#include "absl/strings/str_cat.h"
#include "c10/core/GradMode.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "models/decoder/attention.h"
#include "models/decoder/block_parameters.h"
#include "models/decoder/mlp.h"
#include "models/decoder/normalization.h"
#include "models/decoder/parameter_view.h"
#include "models/decoder/parameters.h"
#include "models/decoder/rotary.h"
#include "xxhash.h"

namespace waypoint::models {
namespace {

constexpr double kInitialDeviation = 0.02;
// The temporary float32 values of a parameter in another dtype.
constexpr int64_t kInitialChunkElements = int64_t{1} << 20;

// What layers with the same attention share within one forward pass.
struct SharedTables {
  RotaryTable rotary;
  at::Tensor hidden_positions;
};

using TableCache = std::map<const Attention*, SharedTables>;

const SharedTables& TablesOf(const Attention& attention, const at::Tensor& x, TableCache* cache) {
  const auto found = cache->find(&attention);
  if (found != cache->end()) {
    return found->second;
  }
  const int64_t length = x.size(1);
  return cache
      ->emplace(&attention, SharedTables{ComputeTable(attention.rotary(), attention.head_size(), length, x.options()),
                                         HiddenPositions(attention, length, x.device())})
      .first->second;
}

at::Tensor RunMixer(const at::Tensor& x, const Mixer& mixer, const ParameterView& parameters, TableCache* cache) {
  if (mixer.has_attention()) {
    const SharedTables& tables = TablesOf(mixer.attention(), x, cache);
    return Attend(x, mixer.attention(), parameters, tables.rotary, tables.hidden_positions);
  }
  const std::string& name = mixer.stochastic().main_mixer_name();
  return RunMixer(x, mixer.stochastic().mixers().at(name), parameters.Below(absl::StrCat("mixers.", name, ".")), cache);
}

at::Tensor RunBlock(at::Tensor x, const Block& block, const ParameterView& parameters, TableCache* cache) {
  at::Tensor branch = Normalize(x, PreMixerNormalization(block), parameters.Below("norm_1."));
  branch = RunMixer(branch, block.mixer(), parameters.Below("mixer."), cache);
  if (block.has_post_mixer_normalization()) {
    branch = Normalize(branch, block.post_mixer_normalization(), parameters.Below("post_mixer_norm."));
  }
  x = x + branch;
  branch = Normalize(x, PreMlpNormalization(block), parameters.Below("norm_2."));
  branch = RunMlp(branch, block.mlp(), parameters.Below("mlp."));
  if (block.has_post_mlp_normalization()) {
    branch = Normalize(branch, block.post_mlp_normalization(), parameters.Below("post_mlp_norm."));
  }
  x = x + branch;
  return block.output_scale() ? x * parameters.Get("output_scale") : x;
}

at::Tensor Embed(const at::Tensor& input_ids, const DecoderConfig& config, const ParameterView& parameters) {
  at::Tensor x = at::embedding(parameters.Get("word_embeddings_weight"), input_ids);
  const double scale = config.embeddings().embedding_scale();
  if (scale != 1.0) {
    // Rounded to the dtype first, as transformers does.
    x = x * at::full({}, scale, x.options());
  }
  if (config.embeddings().has_num_position_embeddings()) {
    x = x + parameters.Get("position_embeddings_weight").narrow(0, 0, input_ids.size(1));
  }
  return x;
}

at::Tensor RunDecoder(const at::Tensor& input_ids, const DecoderConfig& config,
                      const std::map<std::string, at::Tensor>& by_name) {
  at::Tensor x = Embed(input_ids, config, ParameterView(by_name, "embeddings."));
  TableCache cache;
  for (int64_t i = 0; i < config.decoder().num_blocks(); ++i) {
    x = RunBlock(std::move(x), BlockAt(config, i), ParameterView(by_name, absl::StrCat("decoder.", i, ".")), &cache);
  }
  x = Normalize(x, config.head().normalization(), ParameterView(by_name, "head.final_norm."));
  at::Tensor logits = at::linear(
      x, by_name.at(config.tied_embedding_weight() ? "embeddings.word_embeddings_weight" : "head.output_weights"));
  if (config.head().logits_scale_factor() != 1.0) {
    logits = logits * config.head().logits_scale_factor();
  }
  if (config.head().has_final_logit_softcap()) {
    const double cap = config.head().final_logit_softcap();
    logits = at::tanh(logits / cap) * cap;
  }
  return logits;
}

absl::Status CheckInput(const at::Tensor& input_ids, const DecoderConfig& config) {
  if (!input_ids.defined() || input_ids.scalar_type() != at::kLong || input_ids.dim() != 2) {
    return MakeError(ErrorKind::kRequest,
                     absl::StrCat("input_ids must be int64 [batch, length], got ",
                                  input_ids.defined() ? c10::toString(input_ids.scalar_type()) : "nothing",
                                  input_ids.defined() ? absl::StrCat(" of rank ", input_ids.dim()) : ""));
  }
  if (config.embeddings().has_num_position_embeddings() &&
      input_ids.size(1) > config.embeddings().num_position_embeddings()) {
    return MakeError(ErrorKind::kRequest, absl::StrCat("input_ids have length ", input_ids.size(1), ", the model has ",
                                                       config.embeddings().num_position_embeddings(), " positions"));
  }
  const at::Tensor flat = input_ids.reshape({-1});
  const at::Tensor outside = at::nonzero(at::logical_or(flat < 0, flat >= config.vocab_size()));
  if (outside.size(0) > 0) {
    const int64_t index = outside[0][0].item<int64_t>();
    return MakeError(ErrorKind::kRequest, absl::StrCat("input_ids[", index / input_ids.size(1), ", ",
                                                       index % input_ids.size(1), "] is ", flat[index].item<int64_t>(),
                                                       ", the vocabulary has ", config.vocab_size(), " tokens"));
  }
  return absl::OkStatus();
}

void FillNormal(const at::Tensor& parameter, uint64_t seed) {
  at::Generator generator = at::detail::createCPUGenerator(seed);
  const at::Tensor flat = parameter.view({-1});
  for (int64_t begin = 0; begin < flat.size(0); begin += kInitialChunkElements) {
    const at::Tensor chunk = flat.narrow(0, begin, std::min(kInitialChunkElements, flat.size(0) - begin));
    chunk.copy_(at::normal(0.0, kInitialDeviation, chunk.sizes(), generator, at::TensorOptions(at::kFloat)));
  }
}

}  // namespace

DecoderModule::DecoderModule(const DecoderConfig& config, std::vector<std::pair<std::string, at::Tensor>> parameters)
    : config_(config), parameters_(std::move(parameters)), by_name_(parameters_.begin(), parameters_.end()) {}

absl::StatusOr<std::unique_ptr<DecoderModule>> DecoderModule::Create(const DecoderConfig& config,
                                                                     at::ScalarType dtype) {
  WAYPOINT_RETURN_IF_ERROR(CheckComputable(config));
  if (dtype != at::kFloat && dtype != at::kDouble && dtype != at::kBFloat16 && dtype != at::kHalf) {
    return MakeError(ErrorKind::kRequest, absl::StrCat("parameters cannot be ", c10::toString(dtype),
                                                       ", must be float16, bfloat16, float32 or float64"));
  }
  const BlockParameters all = ListParameters(config);
  try {
    std::vector<std::pair<std::string, at::Tensor>> parameters;
    parameters.reserve(all.parameters.size());
    for (const ParameterShape& parameter : all.parameters) {
      at::Tensor tensor = at::empty({parameter.shape.data(), parameter.shape.size()}, at::TensorOptions(dtype));
      tensor.set_requires_grad(true);
      parameters.emplace_back(parameter.name, std::move(tensor));
    }
    return std::unique_ptr<DecoderModule>(new DecoderModule(config, std::move(parameters)));
  } catch (const std::exception& error) {
    return MakeError(ErrorKind::kLimit, absl::StrCat("cannot allocate the model's parameters: ", error.what()));
  }
}

void DecoderModule::Initialize(uint64_t seed) {
  const c10::NoGradGuard no_grad;
  for (const ParameterShape& parameter : ListParameters(config_).parameters) {
    const at::Tensor& tensor = by_name_.at(parameter.name);
    switch (parameter.first_value) {
      case FirstValue::kNormal:
        FillNormal(tensor, XXH3_64bits_withSeed(parameter.name.data(), parameter.name.size(), seed));
        break;
      case FirstValue::kOne:
        tensor.fill_(1);
        break;
      case FirstValue::kZero:
        tensor.zero_();
        break;
    }
  }
}

absl::StatusOr<at::Tensor> DecoderModule::Forward(const at::Tensor& input_ids) {
  // libtorch throws, also for operations that it lacks in a dtype.
  try {
    WAYPOINT_RETURN_IF_ERROR(CheckInput(input_ids, config_));
    return RunDecoder(input_ids, config_, by_name_);
  } catch (const std::exception& error) {
    return MakeError(ErrorKind::kUnsupported,
                     absl::StrCat("libtorch cannot run the decoder in ",
                                  c10::toString(parameters_[0].second.scalar_type()), ": ", error.what()));
  }
}

}  // namespace waypoint::models
