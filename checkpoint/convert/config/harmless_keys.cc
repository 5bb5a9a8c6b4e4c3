#include "checkpoint/convert/config/harmless_keys.h"

namespace waypoint {
namespace {

constexpr char kIdentity[] = "where the files came from";
constexpr char kGeneration[] = "how text is generated from logits";
constexpr char kTokens[] = "token ids, for generation and losses";
constexpr char kOutputs[] = "what transformers returns, not what it computes";
constexpr char kHeads[] = "labels of classification heads, which a causal language model has not";
constexpr char kTraining[] = "only training from scratch reads it";
constexpr char kRuntime[] = "how transformers runs, not what it computes";
constexpr char kOtherModels[] = "encoders and encoder-decoders read it";

// transformers 4.31 to 5.12: configuration_utils.py (PretrainedConfig), generation/configuration_utils.py (the keys
// that lived in config.json once), and the model configs' own fields that no computation of logits reads.
constexpr HarmlessKey kRootKeys[] = {
    {"_name_or_path", nullptr, kIdentity},
    {"_commit_hash", nullptr, kIdentity},
    {"transformers_version", nullptr, kIdentity},
    {"transformers.js_config", nullptr, kIdentity},
    {"finetuning_task", nullptr, kIdentity},
    {"is_llama_config", nullptr, kIdentity},
    // Code beside a model is never run here.
    {"auto_map", nullptr, "names Python code for transformers; it is carried, never run"},
    {"tokenizer_class", nullptr, kIdentity},
    {"unsloth_fixed", nullptr, kIdentity},
    {"unsloth_version", nullptr, kIdentity},
    {"prefix", nullptr, kGeneration},

    // The weights' own dtypes decide; the key is rewritten when they are cast.
    {"torch_dtype", nullptr, "the dtype in which transformers loads"},
    {"dtype", nullptr, "the dtype in which transformers loads"},
    {"use_bfloat16", nullptr, kRuntime},
    {"use_cache", nullptr, kRuntime},
    {"torchscript", nullptr, kRuntime},
    {"tf_legacy_loss", nullptr, kRuntime},
    {"chunk_size_feed_forward", nullptr, kRuntime},
    {"pretraining_tp", nullptr, "slices matrix products as training did; the weights are the same"},
    {"_attn_implementation", nullptr, kRuntime},
    {"_attn_implementation_autoset", nullptr, kRuntime},
    {"_attn_implementation_internal", nullptr, kRuntime},
    {"attn_implementation", nullptr, kRuntime},
    {"_flash_attn_2_enabled", nullptr, kRuntime},
    {"use_flash_attention_2", nullptr, kRuntime},
    {"gradient_checkpointing", nullptr, kRuntime},
    {"keys_to_ignore_at_inference", nullptr, kOutputs},
    {"max_position_embeddings", nullptr, "a limit; where rotary embeddings depend on it, their declaration reads it"},
    {"max_sequence_length", nullptr, "a limit of the first LLaMA configs; nothing computes with it"},
    {"rope_interleaved", "false", "interleaved rotary embeddings need the rows of query and key reordered"},
    {"initializer_range", nullptr, kTraining},

    {"bos_token_id", nullptr, kTokens},
    {"unk_token_id", nullptr, kTokens},
    {"eos_token_id", nullptr, kTokens},
    {"pad_token_id", nullptr, kTokens},
    {"sep_token_id", nullptr, kTokens},
    {"mask_token_id", nullptr, kTokens},
    {"decoder_start_token_id", nullptr, kTokens},
    {"forced_bos_token_id", nullptr, kTokens},
    {"forced_eos_token_id", nullptr, kTokens},

    {"return_dict", nullptr, kOutputs},
    {"output_hidden_states", nullptr, kOutputs},
    {"output_attentions", nullptr, kOutputs},
    {"output_scores", nullptr, kOutputs},
    {"return_dict_in_generate", nullptr, kOutputs},

    {"id2label", nullptr, kHeads},
    {"label2id", nullptr, kHeads},
    {"num_labels", nullptr, kHeads},
    {"problem_type", nullptr, kHeads},
    {"task_specific_params", nullptr, kGeneration},

    {"is_decoder", nullptr, kOtherModels},
    {"is_encoder_decoder", "false", "an encoder-decoder is no causal language model"},
    {"add_cross_attention", "false", "cross attention has weights of its own"},
    {"cross_attention_hidden_size", nullptr, kOtherModels},
    {"tie_encoder_decoder", "false", "an encoder-decoder is no causal language model"},
    {"pruned_heads", "{}", "pruned heads change the shapes of the weights; save the model unpruned"},

    {"max_length", nullptr, kGeneration},
    {"min_length", nullptr, kGeneration},
    {"do_sample", nullptr, kGeneration},
    {"early_stopping", nullptr, kGeneration},
    {"num_beams", nullptr, kGeneration},
    {"num_beam_groups", nullptr, kGeneration},
    {"diversity_penalty", nullptr, kGeneration},
    {"temperature", nullptr, kGeneration},
    {"top_k", nullptr, kGeneration},
    {"top_p", nullptr, kGeneration},
    {"typical_p", nullptr, kGeneration},
    {"repetition_penalty", nullptr, kGeneration},
    {"length_penalty", nullptr, kGeneration},
    {"no_repeat_ngram_size", nullptr, kGeneration},
    {"encoder_no_repeat_ngram_size", nullptr, kGeneration},
    {"bad_words_ids", nullptr, kGeneration},
    {"num_return_sequences", nullptr, kGeneration},
    {"remove_invalid_values", nullptr, kGeneration},
    {"exponential_decay_length_penalty", nullptr, kGeneration},
    {"suppress_tokens", nullptr, kGeneration},
    {"begin_suppress_tokens", nullptr, kGeneration},
};

}  // namespace

absl::Span<const HarmlessKey> TransformersRootKeys() { return kRootKeys; }

HarmlessKeys& HarmlessKeys::Add(absl::string_view prefix, absl::Span<const HarmlessKey> keys) {
  for (const HarmlessKey& key : keys) {
    // Listed keys are one segment each, dots included ("transformers.js_config").
    JsonPath path = ParseJsonPath(prefix);
    path.emplace_back(key.path);
    keys_[path] = key;
  }
  return *this;
}

const HarmlessKey* HarmlessKeys::Find(const JsonPath& path) const {
  JsonPath prefix;
  for (const std::string& segment : path) {
    prefix.push_back(segment);
    const auto found = keys_.find(prefix);
    if (found != keys_.end()) {
      return &found->second;
    }
  }
  return nullptr;
}

}  // namespace waypoint
