#include "tests/benchmarks/synthetic_checkpoint.h"

#include <cstring>
#include <memory>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/json.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/container/safetensors/index.h"
#include "checkpoint/container/safetensors/safetensors_sink.h"
#include "checkpoint/tensor/transfer.h"

namespace waypoint {
namespace {

// Sebastiano Vigna's splitmix64 (public domain, prng.di.unimi.it): a counter in, 64 well-mixed bits out.
uint64_t Mix(uint64_t counter) {
  uint64_t z = counter * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

// Which of the 64 bits stay random, and which exponent bits are set so that magnitudes lie in [2^-8, 1).
struct Pattern {
  uint64_t random = 0;
  uint64_t fixed = 0;
};

Pattern PatternOf(DType dtype) {
  switch (dtype) {
    case DType::kBF16:  // exponent 120 to 126 or 127
      return {0x837f837f837f837fu, 0x3c003c003c003c00u};
    case DType::kF16:  // exponent 8 to 14
      return {0x8fff8fff8fff8fffu, 0x2000200020002000u};
    default:  // float32
      return {0x837fffff837fffffu, 0x3c0000003c000000u};
  }
}

// Elements [first, first + count) of one tensor.
void Fill(uint64_t tensor_seed, const Pattern& pattern, int element_bytes, int64_t first, int64_t count, char* to) {
  const int64_t per_word = 8 / element_bytes;
  int64_t i = 0;
  while (i < count) {
    const int64_t element = first + i;
    const uint64_t word =
        (Mix(tensor_seed + static_cast<uint64_t>(element / per_word)) & pattern.random) | pattern.fixed;
    const int64_t skip = element % per_word;
    const int64_t take = std::min(per_word - skip, count - i);
    std::memcpy(to + i * element_bytes, reinterpret_cast<const char*>(&word) + skip * element_bytes,
                take * element_bytes);
    i += take;
  }
}

absl::StatusOr<Manifest> LlamaManifest(const LlamaShape& shape, DType dtype) {
  Manifest manifest;
  absl::Status status;
  const auto add = [&](std::string name, Dims dims) {
    TensorMeta tensor;
    tensor.name = std::move(name);
    tensor.dtype = dtype;
    tensor.shape = std::move(dims);
    status.Update(manifest.Add(std::move(tensor)));
  };
  const int64_t head = shape.hidden / shape.heads;
  if (!shape.tied) {
    add("lm_head.weight", {shape.vocabulary, shape.hidden});
  }
  add("model.embed_tokens.weight", {shape.vocabulary, shape.hidden});
  for (int64_t layer = 0; layer < shape.layers; ++layer) {
    const std::string prefix = absl::StrCat("model.layers.", layer, ".");
    add(prefix + "input_layernorm.weight", {shape.hidden});
    add(prefix + "mlp.down_proj.weight", {shape.hidden, shape.intermediate});
    add(prefix + "mlp.gate_proj.weight", {shape.intermediate, shape.hidden});
    add(prefix + "mlp.up_proj.weight", {shape.intermediate, shape.hidden});
    add(prefix + "post_attention_layernorm.weight", {shape.hidden});
    add(prefix + "self_attn.k_proj.weight", {shape.key_value_heads * head, shape.hidden});
    add(prefix + "self_attn.o_proj.weight", {shape.hidden, shape.heads * head});
    add(prefix + "self_attn.q_proj.weight", {shape.heads * head, shape.hidden});
    add(prefix + "self_attn.v_proj.weight", {shape.key_value_heads * head, shape.hidden});
  }
  add("model.norm.weight", {shape.hidden});
  WAYPOINT_RETURN_IF_ERROR(status);
  return manifest;
}

Json LlamaConfig(const LlamaShape& shape, DType dtype) {
  Json config;
  config["architectures"] = {"LlamaForCausalLM"};
  config["attention_bias"] = false;
  config["attention_dropout"] = 0.0;
  config["bos_token_id"] = 1;
  config["eos_token_id"] = 2;
  config["hidden_act"] = "silu";
  config["hidden_size"] = shape.hidden;
  config["initializer_range"] = 0.02;
  config["intermediate_size"] = shape.intermediate;
  config["max_position_embeddings"] = 8192;
  config["mlp_bias"] = false;
  config["model_type"] = "llama";
  config["num_attention_heads"] = shape.heads;
  config["num_hidden_layers"] = shape.layers;
  config["num_key_value_heads"] = shape.key_value_heads;
  config["pretraining_tp"] = 1;
  config["rms_norm_eps"] = 1e-05;
  config["rope_scaling"] = nullptr;
  config["rope_theta"] = 500000.0;
  config["tie_word_embeddings"] = shape.tied;
  config["torch_dtype"] = std::string(DTypeTorchName(dtype));
  config["transformers_version"] = "4.45.0";
  config["use_cache"] = true;
  config["vocab_size"] = shape.vocabulary;
  return config;
}

}  // namespace

const std::vector<LlamaShape>& KnownShapes() {
  static const auto* shapes = new std::vector<LlamaShape>{
      {"1b", 2048, 8192, 16, 32, 8, 128256, true},
      {"8b", 4096, 14336, 32, 32, 8, 128256, false},
      {"single-2gib-tensor", 2048, 1024, 1, 16, 4, 524288, true},
      {"1000-tensors", 64, 128, 111, 4, 2, 320, false},
  };
  return *shapes;
}

absl::Status RandomSource::Read(absl::Span<const ReadRequest> requests) {
  for (const ReadRequest& request : requests) {
    const TensorMeta& tensor = manifest_[request.tensor];
    const uint64_t tensor_seed = Mix(seed_ * 1'000'003 + static_cast<uint64_t>(request.tensor)) << 20;
    const Pattern pattern = PatternOf(tensor.dtype);
    const int element_bytes = DTypeBytes(tensor.dtype);
    const int rank = request.box.rank();
    if (request.box.empty()) {
      continue;
    }
    // Row by row of the last dimension.
    const int64_t row = rank == 0 ? 1 : request.box.sizes[rank - 1];
    if (rank > 0 && row > 1 && request.to.strides[rank - 1] != element_bytes) {
      return MakeError(ErrorKind::kUnsupported, "random tensors are made row-major only");
    }
    Dims index(rank == 0 ? 0 : rank - 1, 0);
    while (true) {
      int64_t first = 0;
      int64_t offset = 0;
      for (int dim = 0; dim < rank; ++dim) {
        const int64_t at = dim + 1 < rank ? index[dim] : 0;
        first = first * tensor.shape[dim] + request.box.offsets[dim] + at;
        offset += at * request.to.strides[dim];
      }
      Fill(tensor_seed, pattern, element_bytes, first, row, request.to.data + offset);
      int dim = rank - 2;
      while (dim >= 0 && ++index[dim] == request.box.sizes[dim]) {
        index[dim--] = 0;
      }
      if (dim < 0) {
        break;
      }
    }
  }
  return absl::OkStatus();
}

absl::Status WriteSyntheticLlama(FileSystem& fs, const LlamaShape& shape, DType dtype, uint64_t seed,
                                 int64_t max_shard_bytes, const std::string& directory) {
  WAYPOINT_ASSIGN_OR_RETURN(const Manifest manifest, LlamaManifest(shape, dtype));
  WAYPOINT_ASSIGN_OR_RETURN(const bool exists, Exists(fs, directory));
  if (exists) {
    return MakeError(ErrorKind::kExists, absl::StrCat("\"", directory, "\" exists"));
  }
  WAYPOINT_RETURN_IF_ERROR(MakeDirectories(fs, directory));

  std::vector<int64_t> tensors(manifest.size());
  std::iota(tensors.begin(), tensors.end(), 0);
  const std::vector<SafetensorsFilePlan> files =
      PlanSafetensorsFiles(manifest, tensors, "model", max_shard_bytes, {{"format", "pt"}});
  if (files.size() > 1) {
    std::map<std::string, std::string> weight_map;
    for (const SafetensorsFilePlan& file : files) {
      for (const int64_t tensor : file.tensors) {
        weight_map[manifest[tensor].name] = file.name;
      }
    }
    WAYPOINT_RETURN_IF_ERROR(
        WriteSmallFile(fs, JoinPath(directory, kSafetensorsIndexName),
                       BuildSafetensorsIndex(weight_map, Json{{"total_size", manifest.total_bytes()}})));
  }
  WAYPOINT_RETURN_IF_ERROR(WriteSmallFile(fs, JoinPath(directory, "config.json"), DumpJson(LlamaConfig(shape, dtype))));
  const Json generation = {
      {"_from_model_config", true}, {"bos_token_id", 1}, {"eos_token_id", 2}, {"transformers_version", "4.45.0"}};
  WAYPOINT_RETURN_IF_ERROR(WriteSmallFile(fs, JoinPath(directory, "generation_config.json"), DumpJson(generation)));

  RandomSource source(manifest, seed);
  WAYPOINT_ASSIGN_OR_RETURN(const auto sink, SafetensorsSink::Create(fs, directory, manifest, files, int64_t{8} << 20));
  WAYPOINT_RETURN_IF_ERROR(Transfer(source, *sink, {}).status());
  return fs.SyncDirectory(directory);
}

}  // namespace waypoint
