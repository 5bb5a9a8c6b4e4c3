// ValidateConfig: every number of a config before anything is computed, allocated or looped over by it.
#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "checkpoint/base/checked_math.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/ranges.h"
#include "models/decoder/block_parameters.h"
#include "models/decoder/parameters.h"

namespace waypoint::models {
namespace {

// Far above any model, low enough that twice the product of two sizes fits 63 bits.
constexpr int64_t kMaxSize = int64_t{1} << 30;
// Layers, experts and heads are looped over, by name.
constexpr int64_t kMaxBlocks = 65'536;
constexpr int64_t kMaxExperts = 65'536;
constexpr int64_t kMaxBlocksTimesExperts = int64_t{1} << 22;
constexpr int64_t kMaxPredictionHeads = 1024;
// Weights, gradient, master and two moments in float64 still fit 63 bits.
constexpr int64_t kMaxParameters = int64_t{1} << 56;
constexpr int kMaxProblemsSpelledOut = 50;

class Validator {
 public:
  absl::Status Run(const DecoderConfig& config) {
    Size("hidden_size", config.hidden_size(), kMaxSize);
    Size("vocab_size", config.vocab_size(), kMaxSize);
    Positive("embeddings.embedding_scale", config.embeddings().embedding_scale());
    if (config.embeddings().has_num_position_embeddings()) {
      Size("embeddings.num_position_embeddings", config.embeddings().num_position_embeddings(), kMaxSize);
    }
    CheckSequence(config.decoder());
    CheckHead(config.head());
    if (problems_.empty()) {
      for (const OutOfRange& wrong : FindOutOfRange(config, kMaxProblemsSpelledOut)) {
        Add(wrong.path, " is ", wrong.value, ", must be ", wrong.wanted);
      }
    }
    if (problems_.empty()) {
      CheckTotal(config);
    }
    if (problems_.empty()) {
      return absl::OkStatus();
    }
    const size_t shown = std::min<size_t>(problems_.size(), kMaxProblemsSpelledOut);
    std::string message =
        absl::StrCat(problems_.size(), problems_.size() == 1 ? " problem" : " problems",
                     " in the decoder config: ", absl::StrJoin(problems_.begin(), problems_.begin() + shown, "; "));
    if (shown < problems_.size()) {
      absl::StrAppend(&message, "; and ", problems_.size() - shown, " more");
    }
    return MakeError(ErrorKind::kConfig, message);
  }

 private:
  template <typename... Parts>
  void Add(const Parts&... parts) {
    problems_.push_back(absl::StrCat(parts...));
  }

  void Size(absl::string_view path, int64_t value, int64_t max) {
    if (value < 1 || value > max) {
      Add(path, " is ", value, ", must be between 1 and ", max);
    }
  }

  void Positive(absl::string_view path, double value) {
    if (!std::isfinite(value) || value <= 0) {
      Add(path, " is ", value, ", must be positive and finite");
    }
  }

  void NotNegative(absl::string_view path, double value) {
    if (!std::isfinite(value) || value < 0) {
      Add(path, " is ", value, ", must be finite and not negative");
    }
  }

  void Probability(absl::string_view path, double value) {
    if (!(value >= 0 && value < 1)) {
      Add(path, " is ", value, ", must be at least 0 and below 1");
    }
  }

  void CheckNormalization(const std::string& path, const Normalization& normalization) {
    if (normalization.kind() == Normalization::KIND_UNSPECIFIED || !Normalization::Kind_IsValid(normalization.kind())) {
      Add(path, ".kind is ", static_cast<int>(normalization.kind()), ", must be a known kind");
      return;
    }
    if (normalization.kind() != Normalization::NONE) {
      Positive(absl::StrCat(path, ".epsilon"), normalization.epsilon());
    }
  }

  void CheckSequence(const BlockSequence& sequence) {
    Size("decoder.num_blocks", sequence.num_blocks(), kMaxBlocks);
    if (sequence.has_fixed()) {
      CheckBlock("decoder.fixed", sequence.fixed());
    } else if (sequence.has_pattern()) {
      const BlockPattern& pattern = sequence.pattern();
      // Sorted, so that the same config always gives the same message.
      std::set<std::string> names;
      for (const auto& [name, block] : pattern.blocks()) {
        names.insert(name);
      }
      for (const std::string& name : names) {
        CheckBlock(absl::StrCat("decoder.pattern.blocks[\"", name, "\"]"), pattern.blocks().at(name));
      }
      if (pattern.pattern_size() == 0) {
        Add("decoder.pattern.pattern is empty, must name at least one block");
      }
      for (int i = 0; i < pattern.pattern_size(); ++i) {
        if (names.count(pattern.pattern(i)) == 0) {
          Add("decoder.pattern.pattern[", i, "] is \"", pattern.pattern(i), "\", must be one of the blocks");
        }
      }
    } else {
      Add("decoder has neither a fixed block nor a pattern");
    }
  }

  void CheckBlock(const std::string& path, const Block& block) {
    CheckMixer(absl::StrCat(path, ".mixer"), block.mixer(), /*nested=*/false);
    CheckMlp(absl::StrCat(path, ".mlp"), block.mlp());
    CheckNormalization(absl::StrCat(path, ".normalization"), block.normalization());
    if (block.has_pre_mixer_normalization()) {
      CheckNormalization(absl::StrCat(path, ".pre_mixer_normalization"), block.pre_mixer_normalization());
    }
    if (block.has_pre_mlp_normalization()) {
      CheckNormalization(absl::StrCat(path, ".pre_mlp_normalization"), block.pre_mlp_normalization());
    }
    if (block.has_post_mixer_normalization()) {
      CheckNormalization(absl::StrCat(path, ".post_mixer_normalization"), block.post_mixer_normalization());
    }
    if (block.has_post_mlp_normalization()) {
      CheckNormalization(absl::StrCat(path, ".post_mlp_normalization"), block.post_mlp_normalization());
    }
    Probability(absl::StrCat(path, ".dropout"), block.dropout());
  }

  void CheckMixer(const std::string& path, const Mixer& mixer, bool nested) {
    if (mixer.has_attention()) {
      CheckAttention(absl::StrCat(path, ".attention"), mixer.attention());
    } else if (!mixer.has_stochastic()) {
      Add(path, " is unset");
    } else if (nested) {
      Add(path, ".stochastic is inside of another stochastic mixer");
    } else {
      CheckStochastic(absl::StrCat(path, ".stochastic"), mixer.stochastic());
    }
  }

  void CheckStochastic(const std::string& path, const StochasticMixer& stochastic) {
    std::set<std::string> names;
    for (const auto& [name, mixer] : stochastic.mixers()) {
      names.insert(name);
    }
    for (const std::string& name : names) {
      const std::string mixer_path = absl::StrCat(path, ".mixers[\"", name, "\"]");
      // The name is a part of parameters' names.
      if (name.empty() || name.find('.') != std::string::npos || name.find('/') != std::string::npos) {
        Add(mixer_path, " has a name that is empty or holds \".\" or \"/\"");
      }
      CheckMixer(mixer_path, stochastic.mixers().at(name), /*nested=*/true);
    }
    if (names.count(stochastic.main_mixer_name()) == 0) {
      Add(path, ".main_mixer_name is \"", stochastic.main_mixer_name(), "\", must be one of the mixers");
    }
    const std::map<std::string, double> weights(stochastic.sampling_weights().begin(),
                                                stochastic.sampling_weights().end());
    for (const auto& [name, weight] : weights) {
      const std::string weight_path = absl::StrCat(path, ".sampling_weights[\"", name, "\"]");
      if (names.count(name) == 0) {
        Add(weight_path, " belongs to no mixer");
      }
      NotNegative(weight_path, weight);
    }
  }

  void CheckAttention(const std::string& path, const Attention& attention) {
    Size(absl::StrCat(path, ".heads"), attention.heads(), kMaxSize);
    Size(absl::StrCat(path, ".head_groups"), attention.head_groups(), kMaxSize);
    Size(absl::StrCat(path, ".head_size"), attention.head_size(), kMaxSize);
    if (attention.head_groups() > 0 && attention.heads() % attention.head_groups() != 0) {
      Add(path, ".heads is ", attention.heads(), ", must be a multiple of head_groups, which is ",
          attention.head_groups());
    }
    CheckRotary(absl::StrCat(path, ".rotary"), attention.rotary(), attention.head_size());
    NotNegative(absl::StrCat(path, ".softmax_scale_power"), attention.softmax_scale_power());
    if (attention.has_window_size() && attention.window_size() < 1) {
      Add(path, ".window_size is ", attention.window_size(), ", must be at least 1");
    }
    if (attention.has_query_norm()) {
      CheckNormalization(absl::StrCat(path, ".query_norm"), attention.query_norm());
    }
    if (attention.has_key_norm()) {
      CheckNormalization(absl::StrCat(path, ".key_norm"), attention.key_norm());
    }
    if (attention.has_value_norm()) {
      CheckNormalization(absl::StrCat(path, ".value_norm"), attention.value_norm());
    }
    Probability(absl::StrCat(path, ".dropout"), attention.dropout());
  }

  void CheckRotary(const std::string& path, const Rotary& rotary, int64_t head_size) {
    if (rotary.kind_case() == Rotary::KIND_NOT_SET) {
      Add(path, " is unset");
      return;
    }
    if (rotary.has_none()) {
      return;
    }
    Positive(absl::StrCat(path, ".theta"), rotary.theta());
    // The two halves of a head turn together.
    if (head_size % 2 != 0) {
      Add(path, " needs an even head_size, which is ", head_size);
    }
    if (rotary.has_llama3()) {
      CheckLlama3(absl::StrCat(path, ".llama3"), rotary.llama3());
    } else if (rotary.has_yarn()) {
      CheckYarn(absl::StrCat(path, ".yarn"), rotary.yarn(), rotary.theta());
    } else if (rotary.has_linear()) {
      Positive(absl::StrCat(path, ".linear.scale_factor"), rotary.linear().scale_factor());
    } else if (rotary.has_dynamic()) {
      Positive(absl::StrCat(path, ".dynamic.scale_factor"), rotary.dynamic().scale_factor());
      ContextLength(absl::StrCat(path, ".dynamic"), rotary.dynamic().original_context_length());
      // theta is raised to head_size / (head_size - 2).
      if (head_size == 2) {
        Add(path, ".dynamic needs a head_size above 2");
      }
    } else if (rotary.has_proportional()) {
      const double factor = rotary.proportional().partial_rotary_factor();
      if (!(factor > 0 && factor <= 1)) {
        Add(path, ".proportional.partial_rotary_factor is ", factor, ", must be above 0 and at most 1");
      }
    }
  }

  // Exact as a double.
  void ContextLength(const std::string& path, int64_t length) {
    Size(absl::StrCat(path, ".original_context_length"), length, int64_t{1} << 53);
  }

  void CheckLlama3(const std::string& path, const Llama3Rotary& llama3) {
    Positive(absl::StrCat(path, ".scale_factor"), llama3.scale_factor());
    Positive(absl::StrCat(path, ".low_frequency_factor"), llama3.low_frequency_factor());
    Positive(absl::StrCat(path, ".high_frequency_factor"), llama3.high_frequency_factor());
    ContextLength(path, llama3.original_context_length());
    // The formula divides by their difference.
    if (llama3.high_frequency_factor() <= llama3.low_frequency_factor()) {
      Add(path, ".high_frequency_factor is ", llama3.high_frequency_factor(), ", must be above low_frequency_factor, ",
          "which is ", llama3.low_frequency_factor());
    }
  }

  void CheckYarn(const std::string& path, const YarnRotary& yarn, double theta) {
    Positive(absl::StrCat(path, ".scale_factor"), yarn.scale_factor());
    Positive(absl::StrCat(path, ".beta_fast"), yarn.beta_fast());
    Positive(absl::StrCat(path, ".beta_slow"), yarn.beta_slow());
    ContextLength(path, yarn.original_context_length());
    if (yarn.beta_fast() < yarn.beta_slow()) {
      Add(path, ".beta_fast is ", yarn.beta_fast(), ", must be at least beta_slow, which is ", yarn.beta_slow());
    }
    if (yarn.has_attention_factor()) {
      Positive(absl::StrCat(path, ".attention_factor"), yarn.attention_factor());
    }
    if (yarn.has_mscale()) {
      NotNegative(absl::StrCat(path, ".mscale"), yarn.mscale());
    }
    if (yarn.has_mscale_all_dim()) {
      NotNegative(absl::StrCat(path, ".mscale_all_dim"), yarn.mscale_all_dim());
    }
    // The formula divides by the logarithm of theta.
    if (theta > 0 && theta <= 1) {
      Add(path, " needs a theta above 1, which is ", theta);
    }
  }

  void CheckMlp(const std::string& path, const Mlp& mlp) {
    if (mlp.has_dense()) {
      CheckDense(absl::StrCat(path, ".dense"), mlp.dense());
    } else if (mlp.has_moe()) {
      CheckMoe(absl::StrCat(path, ".moe"), mlp.moe());
    } else {
      Add(path, " is unset");
    }
  }

  void CheckDense(const std::string& path, const DenseMlp& mlp) {
    Size(absl::StrCat(path, ".intermediate_size"), mlp.intermediate_size(), kMaxSize);
    if (mlp.activation() == ACTIVATION_UNSPECIFIED || !Activation_IsValid(mlp.activation())) {
      Add(path, ".activation is ", static_cast<int>(mlp.activation()), ", must be a known activation");
    }
    if (mlp.has_pre_norm()) {
      CheckNormalization(absl::StrCat(path, ".pre_norm"), mlp.pre_norm());
    }
    if (mlp.has_post_norm()) {
      CheckNormalization(absl::StrCat(path, ".post_norm"), mlp.post_norm());
    }
  }

  void CheckMoe(const std::string& path, const MoeMlp& moe) {
    CheckDense(absl::StrCat(path, ".expert"), moe.expert());
    Size(absl::StrCat(path, ".experts"), moe.experts(), kMaxExperts);
    if (moe.experts_per_token() < 1 || moe.experts_per_token() > moe.experts()) {
      Add(path, ".experts_per_token is ", moe.experts_per_token(), ", must be between 1 and experts, which is ",
          moe.experts());
    }
    if (moe.shared_experts() < 0 || moe.shared_experts() > kMaxExperts) {
      Add(path, ".shared_experts is ", moe.shared_experts(), ", must be between 0 and ", kMaxExperts);
    }
    if (moe.routing() == MoeMlp::ROUTING_UNSPECIFIED || !MoeMlp::Routing_IsValid(moe.routing())) {
      Add(path, ".routing is ", static_cast<int>(moe.routing()), ", must be a known routing");
    }
    if (moe.has_router_normalization()) {
      CheckNormalization(absl::StrCat(path, ".router_normalization"), moe.router_normalization());
    }
    Positive(absl::StrCat(path, ".router_input_scale"), moe.router_input_scale());
    NotNegative(absl::StrCat(path, ".auxiliary_loss_coefficient"), moe.auxiliary_loss_coefficient());
    NotNegative(absl::StrCat(path, ".z_loss_coefficient"), moe.z_loss_coefficient());
    NotNegative(absl::StrCat(path, ".jitter"), moe.jitter());
  }

  void CheckHead(const Head& head) {
    CheckNormalization("head.normalization", head.normalization());
    if (head.has_final_logit_softcap()) {
      Positive("head.final_logit_softcap", head.final_logit_softcap());
    }
    Positive("head.logits_scale_factor", head.logits_scale_factor());
    Size("head.prediction_heads", head.prediction_heads(), kMaxPredictionHeads);
  }

  // Adds `times` times the elements of a shape to the total; false (and one problem) when that does not fit.
  bool Count(const std::string& name, const Dims& shape, int64_t times) {
    int64_t elements = 0;
    if (CheckedNumElements(shape, &elements) && CheckedMul(elements, times, &elements) &&
        CheckedAdd(total_, elements, &total_) && total_ <= kMaxParameters) {
      return true;
    }
    Add("the model has more than ", kMaxParameters, " parameters: \"", name, "\" is ", ShapeString(shape), " in ",
        times, times == 1 ? " place" : " places");
    return false;
  }

  bool CountBlock(const std::string& name, const Block& block, int64_t hidden_size, int64_t times) {
    if (block.mlp().has_moe()) {
      experts_ += block.mlp().moe().experts() * times;
    }
    for (const ParameterShape& parameter : ListBlockParameters(block, hidden_size).parameters) {
      if (!Count(absl::StrCat(name, ".", parameter.name), parameter.shape, times)) {
        return false;
      }
    }
    return true;
  }

  // Only when every single number is in bounds.
  void CheckTotal(const DecoderConfig& config) {
    const int64_t hidden_size = config.hidden_size();
    if (!Count("embeddings.word_embeddings_weight", {config.vocab_size(), hidden_size}, 2) ||
        !Count("embeddings.position_embeddings_weight", {config.embeddings().num_position_embeddings(), hidden_size},
               1)) {
      return;
    }
    const BlockSequence& sequence = config.decoder();
    const int64_t further_heads = config.head().prediction_heads() - 1;
    if (!CountBlock("multi_token_prediction.blocks", BlockAt(config, sequence.num_blocks() - 1), hidden_size,
                    further_heads)) {
      return;
    }
    if (sequence.has_fixed()) {
      if (!CountBlock("decoder", sequence.fixed(), hidden_size, sequence.num_blocks())) {
        return;
      }
    } else {
      const int64_t length = sequence.pattern().pattern_size();
      std::map<std::string, int64_t> uses;
      for (int64_t i = 0; i < std::min(length, sequence.num_blocks()); ++i) {
        uses[sequence.pattern().pattern(static_cast<int>(i))] +=
            sequence.num_blocks() / length + (i < sequence.num_blocks() % length ? 1 : 0);
      }
      for (const auto& [name, times] : uses) {
        if (!CountBlock(absl::StrCat("decoder (block \"", name, "\")"), sequence.pattern().blocks().at(name),
                        hidden_size, times)) {
          return;
        }
      }
    }
    if (experts_ > kMaxBlocksTimesExperts) {
      Add("all blocks together have ", experts_, " experts, must be at most ", kMaxBlocksTimesExperts);
    }
  }

  std::vector<std::string> problems_;
  int64_t total_ = 0;
  int64_t experts_ = 0;
};

}  // namespace

absl::Status ValidateConfig(const DecoderConfig& config) { return Validator().Run(config); }

}  // namespace waypoint::models
