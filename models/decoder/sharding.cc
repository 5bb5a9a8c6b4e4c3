#include "models/decoder/sharding.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/list_error.h"
#include "models/decoder/parameters.h"

namespace waypoint::models {
namespace {

constexpr char kWordEmbeddings[] = "embeddings.word_embeddings_weight";

// How tensor ranks divide a parameter: each of `segments` equal runs along `dim` in turn.  dim -1: not at all.
struct Cut {
  int dim = -1;
  int64_t segments = 1;
};

// "mixer.query.weight" of a block's attention, or "mixer.mixers.NAME.query.weight" of one of several.
const Attention& AttentionOf(absl::string_view name, const Block& block) {
  if (block.mixer().has_attention()) {
    return block.mixer().attention();
  }
  absl::ConsumePrefix(&name, "mixer.mixers.");
  for (const auto& entry : block.mixer().stochastic().mixers()) {
    if (absl::StartsWith(name, absl::StrCat(entry.first, "."))) {
      return entry.second.attention();
    }
  }
  return block.mixer().attention();
}

Cut BlockCut(const ParameterShape& parameter, absl::string_view name, const Block& block) {
  if (absl::StartsWith(name, "mixer.")) {
    if (absl::EndsWith(name, ".query.weight") || absl::EndsWith(name, ".query.bias")) {
      return {0, 1};
    }
    if (absl::EndsWith(name, ".key_value.weight") || absl::EndsWith(name, ".key_value.bias")) {
      const Attention& attention = AttentionOf(name, block);
      return {0, parameter.shape[0] / (attention.head_groups() * attention.head_size())};
    }
    return absl::EndsWith(name, ".dense.weight") ? Cut{1, 1} : Cut{};
  }
  if (name == "mlp.layer_1.weight" || name == "mlp.layer_1.bias") {
    return {0, block.mlp().dense().gated() ? 2 : 1};
  }
  return name == "mlp.layer_2.weight" ? Cut{1, 1} : Cut{};
}

ShardedParameter Shard(const ParameterShape& parameter, Cut cut, const DecoderPart& part) {
  ShardedParameter sharded;
  sharded.name = parameter.name;
  sharded.shape = parameter.shape;
  sharded.local_shape = parameter.shape;
  sharded.first_value = parameter.first_value;
  sharded.cut = cut.dim >= 0 && part.tensor_size > 1;
  if (!sharded.cut) {
    sharded.boxes = {Box::Whole(parameter.shape)};
    return sharded;
  }
  const int64_t segment = parameter.shape[cut.dim] / cut.segments;
  const IndexRange range = PartOf(segment, part.tensor_index, part.tensor_size);
  for (int64_t i = 0; i < cut.segments; ++i) {
    Box box = Box::Whole(parameter.shape);
    box.offsets[cut.dim] = i * segment + range.begin;
    box.sizes[cut.dim] = range.size();
    sharded.boxes.push_back(std::move(box));
  }
  sharded.local_shape[cut.dim] = cut.segments * range.size();
  return sharded;
}

// Of "decoder.12.mlp...": 12 and what follows; -1 for what is in no layer.
int64_t TakeLayer(absl::string_view* name) {
  int64_t layer = -1;
  if (!absl::ConsumePrefix(name, "decoder.")) {
    return -1;
  }
  const size_t dot = name->find('.');
  if (!absl::SimpleAtoi(name->substr(0, dot), &layer)) {
    return -1;
  }
  name->remove_prefix(dot + 1);
  return layer;
}

// The block that a parameter belongs to, and its name there; null for embeddings and head.
const Block* TakeBlock(const DecoderConfig& config, absl::string_view* name) {
  if (const int64_t layer = TakeLayer(name); layer >= 0) {
    return &BlockAt(config, layer);
  }
  if (absl::ConsumePrefix(name, "multi_token_prediction.blocks.")) {
    name->remove_prefix(name->find('.') + 1);
    return &BlockAt(config, config.decoder().num_blocks() - 1);
  }
  return nullptr;
}

Cut CutOf(const DecoderConfig& config, const ParameterShape& parameter) {
  absl::string_view name = parameter.name;
  if (name == kWordEmbeddings || name == "head.output_weights") {
    return {0, 1};
  }
  const Block* block = TakeBlock(config, &name);
  return block == nullptr ? Cut{} : BlockCut(parameter, name, *block);
}

bool OnStage(const DecoderConfig& config, absl::string_view name, const DecoderPart& part) {
  if (absl::StartsWith(name, "embeddings.")) {
    return part.first_stage() || (part.last_stage() && config.tied_embedding_weight() && name == kWordEmbeddings);
  }
  const int64_t layer = TakeLayer(&name);
  const IndexRange layers = LayersOf(config, part);
  return layer >= 0 ? layer >= layers.begin && layer < layers.end : part.last_stage();
}

void Divide(Attention& attention, int parts) {
  attention.set_heads(attention.heads() / parts);
  attention.set_head_groups(attention.head_groups() / parts);
}

void Divide(Block& block, int parts) {
  if (block.mixer().has_attention()) {
    Divide(*block.mutable_mixer()->mutable_attention(), parts);
  } else {
    for (auto& entry : *block.mutable_mixer()->mutable_stochastic()->mutable_mixers()) {
      Divide(*entry.second.mutable_attention(), parts);
    }
  }
  DenseMlp& mlp = *block.mutable_mlp()->mutable_dense();
  mlp.set_intermediate_size(mlp.intermediate_size() / parts);
}

}  // namespace

IndexRange PartOf(int64_t size, int index, int parts) {
  // Not size * index / parts: flat sizes of tensors times ranks may overflow.
  const int64_t each = size / parts;
  const int64_t more = size % parts;
  const auto begin = [&](int64_t i) { return each * i + (i < more ? i : more); };
  return {begin(index), begin(index + 1)};
}

IndexRange VocabularyOf(const DecoderConfig& config, const DecoderPart& part) {
  return PartOf(config.vocab_size(), part.tensor_index, part.tensor_size);
}

IndexRange LayersOf(const DecoderConfig& config, const DecoderPart& part) {
  const int64_t each = config.decoder().num_blocks() / part.stages;
  const int64_t more = config.decoder().num_blocks() % part.stages;
  // The last stage, with the head, is the last to get one more; the first, with the embeddings, the last but one.
  const int64_t first_with_more = more + 1 < part.stages ? 1 : 0;
  const auto begin = [&](int64_t stage) {
    return each * stage + std::clamp<int64_t>(stage - first_with_more, 0, more);
  };
  return {begin(part.stage), begin(part.stage + 1)};
}

absl::Status CheckPart(const DecoderConfig& config, const DecoderPart& part) {
  std::vector<std::string> problems;
  const auto divides = [&](int64_t value, absl::string_view path, absl::string_view field) {
    if (value % part.tensor_size != 0) {
      problems.push_back(
          absl::StrCat(path, ".", field, " is ", value, ", which ", part.tensor_size, " tensor ranks do not divide"));
    }
  };
  const auto attention_divides = [&](const Attention& attention, const std::string& path) {
    divides(attention.heads(), path, "heads");
    divides(attention.head_groups(), path, "head_groups");
  };
  for (const auto& [path, block] : DistinctBlocks(config)) {
    if (part.tensor_size > 1 && block->mlp().has_moe()) {
      return MakeError(ErrorKind::kUnsupported,
                       absl::StrCat(path,
                                    ".mlp.moe: mixtures of experts are not cut over tensor ranks; set mesh.tensor "
                                    "to 1"));
    }
    if (block->mixer().has_attention()) {
      attention_divides(block->mixer().attention(), absl::StrCat(path, ".mixer.attention"));
    } else {
      for (const auto& entry : block->mixer().stochastic().mixers()) {
        attention_divides(entry.second.attention(),
                          absl::StrCat(path, ".mixer.stochastic.mixers[\"", entry.first, "\"].attention"));
      }
    }
    if (block->mlp().has_dense()) {
      divides(block->mlp().dense().intermediate_size(), path, "mlp.dense.intermediate_size");
    }
  }
  if (config.vocab_size() < part.tensor_size) {
    problems.push_back(
        absl::StrCat("vocab_size is ", config.vocab_size(), ", less than ", part.tensor_size, " tensor ranks"));
  }
  if (config.decoder().num_blocks() < part.stages) {
    problems.push_back(absl::StrCat("decoder.num_blocks is ", config.decoder().num_blocks(), ", less than ",
                                    part.stages, " pipeline stages"));
  }
  if (problems.empty()) {
    return absl::OkStatus();
  }
  return MakeListError(ErrorKind::kRequest, "the model cannot be cut over this mesh:", problems);
}

std::vector<ShardedParameter> ShardParameters(const DecoderConfig& config, const DecoderPart& part) {
  std::vector<ShardedParameter> sharded;
  for (const ParameterShape& parameter : ListParameters(config).parameters) {
    if (OnStage(config, parameter.name, part)) {
      sharded.push_back(Shard(parameter, CutOf(config, parameter), part));
      sharded.back().tied_copy = !part.first_stage() && parameter.name == kWordEmbeddings;
    }
  }
  return sharded;
}

DecoderConfig TensorLocalConfig(const DecoderConfig& config, const DecoderPart& part) {
  DecoderConfig local = config;
  if (part.tensor_size == 1) {
    return local;
  }
  BlockSequence& sequence = *local.mutable_decoder();
  if (sequence.has_fixed()) {
    Divide(*sequence.mutable_fixed(), part.tensor_size);
    return local;
  }
  for (auto& entry : *sequence.mutable_pattern()->mutable_blocks()) {
    if (entry.second.mlp().has_dense()) {  // no layer uses the others, CheckPart says
      Divide(entry.second, part.tensor_size);
    }
  }
  return local;
}

}  // namespace waypoint::models
