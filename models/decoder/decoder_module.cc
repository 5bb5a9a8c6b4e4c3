#include "models/decoder/decoder_module.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "ATen/ATen.h"
#include "ATen/CPUGeneratorImpl.h"
#include "absl/strings/str_cat.h"
#include "c10/core/GradMode.h"
#include "checkpoint/base/catch_allocation.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "models/decoder/attention.h"
#include "models/decoder/block_parameters.h"
#include "models/decoder/mlp.h"
#include "models/decoder/normalization.h"
#include "models/decoder/parameter_view.h"
#include "models/decoder/parameters.h"
#include "models/decoder/rotary.h"
#include "models/decoder/sharding.h"
#include "models/decoder/tensor_parallel.h"
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

at::Tensor RunMixer(const at::Tensor& x, const Mixer& mixer, const ParameterView& parameters, TableCache* cache,
                    TensorRanks* ranks) {
  if (mixer.has_attention()) {
    const SharedTables& tables = TablesOf(mixer.attention(), x, cache);
    return Attend(x, mixer.attention(), parameters, tables.rotary, tables.hidden_positions, ranks);
  }
  const std::string& name = mixer.stochastic().main_mixer_name();
  return RunMixer(x, mixer.stochastic().mixers().at(name), parameters.Below(absl::StrCat("mixers.", name, ".")), cache,
                  ranks);
}

at::Tensor RunBlock(at::Tensor x, const Block& block, const ParameterView& parameters, TableCache* cache,
                    TensorRanks* ranks) {
  at::Tensor branch = Normalize(x, PreMixerNormalization(block), parameters.Below("norm_1."));
  branch = RunMixer(branch, block.mixer(), parameters.Below("mixer."), cache, ranks);
  if (block.has_post_mixer_normalization()) {
    branch = Normalize(branch, block.post_mixer_normalization(), parameters.Below("post_mixer_norm."));
  }
  x = x + branch;
  branch = Normalize(x, PreMlpNormalization(block), parameters.Below("norm_2."));
  branch = RunMlp(branch, block.mlp(), parameters.Below("mlp."), ranks);
  if (block.has_post_mlp_normalization()) {
    branch = Normalize(branch, block.post_mlp_normalization(), parameters.Below("post_mlp_norm."));
  }
  x = x + branch;
  return block.output_scale() ? x * parameters.Get("output_scale") : x;
}

at::Tensor Embed(const at::Tensor& input_ids, const DecoderConfig& config, const ParameterView& parameters,
                 int64_t first_id, TensorRanks* ranks) {
  at::Tensor x = Embedding(parameters.Get("word_embeddings_weight"), input_ids, first_id, ranks);
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

at::Tensor RunHead(at::Tensor x, const DecoderConfig& config, const std::map<std::string, at::Tensor>& by_name,
                   TensorRanks* ranks) {
  x = Normalize(x, config.head().normalization(), ParameterView(by_name, "head.final_norm."));
  at::Tensor logits = at::linear(
      CopyToRanks(x, ranks),
      by_name.at(config.tied_embedding_weight() ? "embeddings.word_embeddings_weight" : "head.output_weights"));
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

// Of values that are elements [begin, begin + n) of the whole parameter: those that a rank holds.
void TakeHeld(const at::Tensor& values, int64_t begin, const ShardedParameter& parameter, const at::Tensor& tensor) {
  int64_t row = 0;
  for (const Box& held : parameter.boxes) {
    const at::Tensor local = tensor.narrow(0, row, held.sizes[0]);
    row += held.sizes[0];
    int64_t offset = 0;
    for (const Box& run : FlatRangeToBoxes(parameter.shape, begin, begin + values.size(0))) {
      const int64_t elements = run.num_elements();
      const auto common = Intersect(run, held);
      if (common.has_value()) {
        at::Tensor from = values.narrow(0, offset, elements).view({run.sizes.data(), run.sizes.size()});
        at::Tensor to = local;
        for (int d = 0; d < common->rank(); ++d) {
          from = from.narrow(d, common->offsets[d] - run.offsets[d], common->sizes[d]);
          to = to.narrow(d, common->offsets[d] - held.offsets[d], common->sizes[d]);
        }
        to.copy_(from);
      }
      offset += elements;
    }
  }
}

void FillNormal(const ShardedParameter& parameter, const at::Tensor& tensor, uint64_t seed) {
  at::Generator generator = at::detail::createCPUGenerator(seed);
  const int64_t elements = NumElements(parameter.shape);
  for (int64_t begin = 0; begin < elements; begin += kInitialChunkElements) {
    const int64_t size = std::min(kInitialChunkElements, elements - begin);
    TakeHeld(at::normal(0.0, kInitialDeviation, {size}, generator, at::TensorOptions(at::kFloat)), begin, parameter,
             tensor);
  }
}

}  // namespace

DecoderModule::DecoderModule(const DecoderConfig& config, const DecoderPart& part, TensorRanks* ranks)
    : config_(config),
      local_config_(TensorLocalConfig(config, part)),
      part_(part),
      ranks_(ranks),
      sharded_(ShardParameters(config, part)) {}

absl::StatusOr<std::unique_ptr<DecoderModule>> DecoderModule::Create(const DecoderConfig& config, at::ScalarType dtype,
                                                                     const DecoderPart& part, TensorRanks* ranks) {
  WAYPOINT_RETURN_IF_ERROR(CheckComputable(config));
  WAYPOINT_RETURN_IF_ERROR(CheckPart(config, part));
  if (dtype != at::kFloat && dtype != at::kDouble && dtype != at::kBFloat16 && dtype != at::kHalf) {
    return MakeError(ErrorKind::kRequest, absl::StrCat("parameters cannot be ", c10::toString(dtype),
                                                       ", must be float16, bfloat16, float32 or float64"));
  }
  if ((part.tensor_size > 1) != (ranks != nullptr)) {
    return MakeError(ErrorKind::kRequest, absl::StrCat("a decoder cut over ", part.tensor_size, " tensor ranks is ",
                                                       ranks == nullptr ? "not " : "", "connected to others"));
  }
  std::unique_ptr<DecoderModule> module(new DecoderModule(config, part, ranks));
  try {
    for (const ShardedParameter& parameter : module->sharded_) {
      at::Tensor tensor =
          at::empty({parameter.local_shape.data(), parameter.local_shape.size()}, at::TensorOptions(dtype));
      tensor.set_requires_grad(true);
      module->parameters_.emplace_back(parameter.name, tensor);
      module->by_name_.emplace(parameter.name, std::move(tensor));
    }
    return module;
  } catch (const std::exception& error) {
    return ThrownError(error, ErrorKind::kUnknown, "the model's parameters",
                       "choose a narrower dtype, more ranks or a smaller model");
  }
}

void DecoderModule::Initialize(uint64_t seed) {
  const c10::NoGradGuard no_grad;
  for (const ShardedParameter& parameter : sharded_) {
    const at::Tensor& tensor = by_name_.at(parameter.name);
    switch (parameter.first_value) {
      case FirstValue::kNormal:
        FillNormal(parameter, tensor, XXH3_64bits_withSeed(parameter.name.data(), parameter.name.size(), seed));
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

at::Tensor DecoderModule::Run(const at::Tensor& input) {
  at::Tensor x = part_.first_stage() ? Embed(input, local_config_, ParameterView(by_name_, "embeddings."),
                                             VocabularyOf(config_, part_).begin, ranks_)
                                     : input;
  TableCache cache;
  const IndexRange layers = LayersOf(config_, part_);
  for (int64_t i = layers.begin; i < layers.end; ++i) {
    const ParameterView parameters(by_name_, absl::StrCat("decoder.", i, "."));
    x = RunBlock(std::move(x), BlockAt(local_config_, i), parameters, &cache, ranks_);
  }
  return part_.last_stage() ? RunHead(std::move(x), local_config_, by_name_, ranks_) : x;
}

absl::StatusOr<at::Tensor> DecoderModule::Forward(const at::Tensor& input) {
  // libtorch throws, also for operations that it lacks in a dtype.
  try {
    if (part_.first_stage()) {
      WAYPOINT_RETURN_IF_ERROR(CheckInput(input, config_));
    }
    return Run(input);
  } catch (const std::exception& error) {
    if (IsOutOfMemory(error)) {
      return OutOfMemoryError(error, "a pass through the decoder", "give fewer tokens at once");
    }
    return MakeError(ErrorKind::kUnsupported,
                     absl::StrCat("libtorch cannot run the decoder in ",
                                  c10::toString(parameters_[0].second.scalar_type()), ": ", error.what()));
  }
}

at::Tensor DecoderModule::Loss(const at::Tensor& logits, const at::Tensor& targets) {
  return CrossEntropy(logits.reshape({-1, logits.size(-1)}), targets.reshape({-1}), VocabularyOf(config_, part_).begin,
                      ranks_);
}

}  // namespace waypoint::models
