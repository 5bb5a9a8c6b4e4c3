#include "tests/models/decoder/fixture_model.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <vector>

#include "ATen/ATen.h"
#include "absl/strings/str_cat.h"
#include "c10/core/GradMode.h"
#include "nlohmann/json.hpp"

namespace waypoint::models {
namespace {

using nlohmann::json;

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    throw std::runtime_error("cannot open " + path);
  }
  return std::string(std::istreambuf_iterator<char>(file), {});
}

at::ScalarType TypeOf(const std::string& name) {
  static const std::map<std::string, at::ScalarType> kTypes = {
      {"F32", at::kFloat}, {"BF16", at::kBFloat16}, {"F16", at::kHalf}, {"I64", at::kLong}};
  return kTypes.at(name);
}

// Null counts as absent.
template <typename T>
T ValueOr(const json& object, const char* key, T otherwise) {
  return object.contains(key) && !object[key].is_null() ? object[key].get<T>() : otherwise;
}

Rotary RotaryOf(const json& root) {
  const char* nested = root.contains("rope_parameters") ? "rope_parameters" : "rope_scaling";
  const json rope = ValueOr<json>(root, nested, json::object());
  Rotary rotary;
  rotary.set_theta(ValueOr(rope, "rope_theta", ValueOr(root, "rope_theta", 10000.0)));
  const std::string type = ValueOr<std::string>(rope, "rope_type", "default");
  if (type == "default") {
    rotary.mutable_standard();
  } else if (type == "llama3") {
    Llama3Rotary& llama3 = *rotary.mutable_llama3();
    llama3.set_scale_factor(rope["factor"]);
    llama3.set_low_frequency_factor(rope["low_freq_factor"]);
    llama3.set_high_frequency_factor(rope["high_freq_factor"]);
    llama3.set_original_context_length(rope["original_max_position_embeddings"]);
  } else {
    throw std::runtime_error("rope_type " + type);
  }
  return rotary;
}

DecoderConfig ConfigOf(const json& root) {
  if (root["model_type"] != "llama") {
    throw std::runtime_error("model_type " + root["model_type"].get<std::string>());
  }
  DecoderConfig config;
  config.set_hidden_size(root["hidden_size"]);
  config.set_vocab_size(root["vocab_size"]);
  config.set_tied_embedding_weight(ValueOr(root, "tie_word_embeddings", false));
  config.mutable_embeddings()->set_embedding_scale(1);
  config.mutable_decoder()->set_num_blocks(root["num_hidden_layers"]);

  Block& block = *config.mutable_decoder()->mutable_fixed();
  block.mutable_normalization()->set_kind(Normalization::RMS_NORM);
  block.mutable_normalization()->set_epsilon(root["rms_norm_eps"]);
  Attention& attention = *block.mutable_mixer()->mutable_attention();
  attention.set_heads(root["num_attention_heads"]);
  attention.set_head_groups(ValueOr(root, "num_key_value_heads", attention.heads()));
  attention.set_head_size(ValueOr(root, "head_dim", config.hidden_size() / attention.heads()));
  *attention.mutable_rotary() = RotaryOf(root);
  attention.set_add_linear_biases(ValueOr(root, "attention_bias", false));
  attention.set_causal(true);
  attention.set_softmax_scale_power(0.5);

  DenseMlp& mlp = *block.mutable_mlp()->mutable_dense();
  mlp.set_intermediate_size(root["intermediate_size"]);
  mlp.set_gated(true);
  mlp.set_activation(SILU);

  Head& head = *config.mutable_head();
  *head.mutable_normalization() = block.normalization();
  head.set_logits_scale_factor(1);
  head.set_prediction_heads(1);
  return config;
}

class NameMap {
 public:
  explicit NameMap(const Fixture& fixture) : fixture_(fixture) {}

  // The value of one of our parameters.
  at::Tensor Get(const std::string& name) const {
    if (name == "embeddings.word_embeddings_weight") {
      return Weight("model.embed_tokens.weight");
    }
    if (name == "head.final_norm.weight") {
      return Weight("model.norm.weight");
    }
    if (name == "head.output_weights") {
      return Weight("lm_head.weight");
    }
    const size_t layer_end = name.find('.', std::string("decoder.").size());
    const std::string layer = absl::StrCat("model.layers.", name.substr(8, layer_end - 8), ".");
    const size_t kind_begin = name.rfind('.');
    return Layer(layer, name.substr(layer_end + 1, kind_begin - layer_end - 1), name.substr(kind_begin));
  }

 private:
  at::Tensor Weight(const std::string& name) const { return fixture_.weights.at(name); }

  at::Tensor Layer(const std::string& layer, const std::string& part, const std::string& kind) const {
    static const std::map<std::string, std::vector<std::string>> kParts = {
        {"norm_1", {"input_layernorm"}},       {"norm_2", {"post_attention_layernorm"}},
        {"mixer.query", {"self_attn.q_proj"}}, {"mixer.key_value", {"self_attn.k_proj", "self_attn.v_proj"}},
        {"mixer.dense", {"self_attn.o_proj"}}, {"mlp.layer_1", {"mlp.gate_proj", "mlp.up_proj"}},
        {"mlp.layer_2", {"mlp.down_proj"}}};
    std::vector<at::Tensor> parts;
    for (const std::string& source : kParts.at(part)) {
      parts.push_back(Weight(absl::StrCat(layer, source, kind)));
    }
    return at::cat(parts);
  }

  const Fixture& fixture_;
};

}  // namespace

std::map<std::string, at::Tensor> ReadSafetensors(const std::string& path) {
  const std::string bytes = ReadFile(path);
  uint64_t header_bytes = 0;
  std::copy_n(bytes.data(), sizeof(header_bytes), reinterpret_cast<char*>(&header_bytes));
  const json header = json::parse(bytes.substr(8, header_bytes));
  std::map<std::string, at::Tensor> tensors;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") {
      continue;
    }
    const at::Tensor tensor = at::empty(entry["shape"].get<std::vector<int64_t>>(), TypeOf(entry["dtype"]));
    const size_t begin = entry["data_offsets"][0];
    const size_t end = entry["data_offsets"][1];
    std::copy(bytes.data() + 8 + header_bytes + begin, bytes.data() + 8 + header_bytes + end,
              static_cast<char*>(tensor.data_ptr()));
    tensors.emplace(name, tensor);
  }
  return tensors;
}

Fixture ReadFixture(const std::string& directory) {
  Fixture fixture;
  fixture.config = ConfigOf(json::parse(ReadFile(directory + "/hf/config.json")));
  if (std::ifstream(directory + "/hf/model.safetensors.index.json")) {
    const json index = json::parse(ReadFile(directory + "/hf/model.safetensors.index.json"));
    for (const auto& [name, file] : index["weight_map"].items()) {
      if (fixture.weights.count(name) == 0) {
        fixture.weights.merge(ReadSafetensors(absl::StrCat(directory, "/hf/", file.get<std::string>())));
      }
    }
  } else {
    fixture.weights = ReadSafetensors(directory + "/hf/model.safetensors");
  }
  const auto expected = ReadSafetensors(directory + "/expected.safetensors");
  fixture.input_ids = expected.at("input_ids");
  fixture.logits = expected.at("logits");
  return fixture;
}

std::unique_ptr<DecoderModule> LoadModule(const Fixture& fixture, at::ScalarType dtype) {
  auto module = DecoderModule::Create(fixture.config, dtype);
  if (!module.ok()) {
    throw std::runtime_error(module.status().ToString());
  }
  const c10::NoGradGuard no_grad;
  for (const auto& [name, parameter] : (*module)->parameters()) {
    const at::Tensor value = NameMap(fixture).Get(name);
    if (value.sizes() != parameter.sizes()) {
      throw std::runtime_error("shape of " + name);
    }
    parameter.copy_(value);
  }
  return *std::move(module);
}

}  // namespace waypoint::models
