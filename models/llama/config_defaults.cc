#include "models/llama/config_defaults.h"

#include <string>

#include "absl/memory/memory.h"

namespace waypoint::models {
namespace {

constexpr char kDefaults[] = R"({
  "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
  "num_attention_heads": 32, "hidden_act": "silu", "max_position_embeddings": 2048, "initializer_range": 0.02,
  "rms_norm_eps": 1e-06, "use_cache": true, "pad_token_id": null, "bos_token_id": 1, "eos_token_id": 2,
  "pretraining_tp": 1, "tie_word_embeddings": false, "attention_bias": false, "attention_dropout": 0.0,
  "mlp_bias": false,

  "return_dict": true, "output_hidden_states": false, "output_attentions": false, "torchscript": false,
  "use_bfloat16": false, "tf_legacy_loss": false, "pruned_heads": {}, "chunk_size_feed_forward": 0,
  "is_encoder_decoder": false, "is_decoder": false, "cross_attention_hidden_size": null, "add_cross_attention": false,
  "tie_encoder_decoder": false, "finetuning_task": null, "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
  "label2id": {"LABEL_0": 0, "LABEL_1": 1}, "tokenizer_class": null, "prefix": null, "sep_token_id": null,
  "decoder_start_token_id": null, "task_specific_params": null, "problem_type": null,

  "max_length": 20, "min_length": 0, "do_sample": false, "early_stopping": false, "num_beams": 1,
  "num_beam_groups": 1, "diversity_penalty": 0.0, "temperature": 1.0, "top_k": 50, "top_p": 1.0, "typical_p": 1.0,
  "repetition_penalty": 1.0, "length_penalty": 1.0, "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0,
  "bad_words_ids": null, "num_return_sequences": 1, "output_scores": false, "return_dict_in_generate": false,
  "forced_bos_token_id": null, "forced_eos_token_id": null, "remove_invalid_values": false,
  "exponential_decay_length_penalty": null, "suppress_tokens": null, "begin_suppress_tokens": null
})";

constexpr char kRope[] = "rope_parameters";
constexpr char kTheta[] = "rope_theta";
constexpr char kScaling[] = "rope_scaling";
constexpr char kType[] = "rope_type";

const Json& Defaults() {
  static const auto* const defaults = new Json(Json::parse(kDefaults));
  return *defaults;
}

// The value of a key, or what stands for it; null: nothing does.
Json Value(const Json& config, const char* key) {
  const auto it = config.find(key);
  return it != config.end() && !it->is_null() ? *it : Defaults().value(key, Json());
}

Json Theta(const Json& config) {
  const Json rope = Value(config, kRope);
  if (rope.is_object() && rope.contains(kTheta)) {
    return rope[kTheta];
  }
  const Json theta = Value(config, kTheta);
  return theta.is_null() ? Json(10000.0) : theta;
}

// Version 5's rope_parameters of version 4's keys.
Json Parameters(const Json& config) {
  Json rope = Value(config, kScaling);
  if (!rope.is_object()) {
    rope = Json::object();
  }
  if (!rope.contains(kType)) {
    rope[kType] = rope.contains("type") ? rope["type"] : Json("default");
  }
  rope.erase("type");
  rope[kTheta] = Theta(config);
  return rope;
}

// And the reverse.
Json Scaling(const Json& config) {
  Json rope = Value(config, kRope);
  if (!rope.is_object() || rope.value(kType, Json("default")) == "default") {
    return Json();
  }
  rope.erase(kTheta);
  return rope;
}

class LlamaConfigDefaults final : public ConfigDefaults {
 public:
  absl::optional<Json> Of(absl::string_view key, const Json& config) const override {
    if (key == kTheta) {
      return Theta(config);
    }
    if (key == kRope) {
      return Parameters(config);
    }
    if (key == kScaling) {
      return Scaling(config);
    }
    if (key == "num_key_value_heads") {
      return Value(config, "num_attention_heads");
    }
    if (key == "head_dim") {
      const Json hidden = Value(config, "hidden_size");
      const Json heads = Value(config, "num_attention_heads");
      const bool whole = hidden.is_number_integer() && heads.is_number_integer() && heads.get<int64_t>() > 0 &&
                         hidden.get<int64_t>() % heads.get<int64_t>() == 0;
      return whole ? absl::optional<Json>(hidden.get<int64_t>() / heads.get<int64_t>()) : absl::nullopt;
    }
    if (key == "dtype" || key == "torch_dtype") {
      const Json other = Value(config, key == "dtype" ? "torch_dtype" : "dtype");
      return other.is_null() ? absl::optional<Json>() : other;
    }
    const auto it = Defaults().find(std::string(key));
    return it == Defaults().end() ? absl::nullopt : absl::optional<Json>(*it);
  }
};

}  // namespace

std::unique_ptr<ConfigDefaults> NewLlamaConfigDefaults() { return absl::make_unique<LlamaConfigDefaults>(); }

}  // namespace waypoint::models
