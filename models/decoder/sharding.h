#ifndef MODELS_DECODER_SHARDING_H_
#define MODELS_DECODER_SHARDING_H_

// Which part of a decoder one rank of a mesh holds, as boxes of the parameters of parameters.h.  Does not link
// libtorch.
//
// Tensor ranks cut every layer as Megatron-LM does (arXiv 1909.08053): query, key_value and layer_1 by rows (whole
// heads, whole channels), dense and layer_2 by columns, embeddings and output head by rows of the vocabulary; norms and
// the biases of dense and layer_2 are held by all.  Stages take runs of layers; embeddings are on the first, the head
// on the last, and tied embeddings on both.  Where layers do not divide, stages in the middle take one more, so that
// what ranks hold, and write, is about the same: Llama 3.1 405B over 16 stages is 7, 14 times 8, and 7 layers, as it
// was trained (arXiv 2407.21783, 3.3.2).
//
//   key_value, rank 1 of 2:   K rows | K rows of 1 | V rows | V rows of 1 |      two boxes, which lie in the
//                                     ^^^^^^^^^^^^^          ^^^^^^^^^^^^^        rank's tensor one behind the other
//
// Pure; thread-safe.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoint/tensor/box.h"
#include "models/decoder/block_parameters.h"
#include "models/decoder/config.pb.h"

namespace waypoint::models {

// Default: all of it.
struct DecoderPart {
  int tensor_index = 0;
  int tensor_size = 1;
  int stage = 0;
  int stages = 1;

  bool first_stage() const { return stage == 0; }
  bool last_stage() const { return stage + 1 == stages; }
};

// [begin, end).
struct IndexRange {
  int64_t begin = 0;
  int64_t end = 0;

  int64_t size() const { return end - begin; }
};

// Part `index` of `parts` of 0 .. size - 1; sizes differ by one at most.
IndexRange PartOf(int64_t size, int index, int parts);

struct ShardedParameter {
  std::string name;
  Dims shape;  // global
  // Stacked along dimension 0 they are the rank's tensor; more than one only where that is whole rows of `shape`.
  std::vector<Box> boxes;
  Dims local_shape;
  FirstValue first_value = FirstValue::kNormal;
  // Tensor ranks hold different boxes; else all hold the same.
  bool cut = false;
  // The first stage holds it as well (tied embeddings).
  bool tied_copy = false;
};

// Whether the config can be cut like that.  E_REQUEST with all fields that do not divide; E_UNSUPPORTED for mixtures of
// experts over tensor ranks.  `config` is validated.
absl::Status CheckPart(const DecoderConfig& config, const DecoderPart& part);

// Of a checked part, in the order of parameters.h.
std::vector<ShardedParameter> ShardParameters(const DecoderConfig& config, const DecoderPart& part);

// The config of what one tensor rank computes: its heads, its channels.
DecoderConfig TensorLocalConfig(const DecoderConfig& config, const DecoderPart& part);

// The rows of the vocabulary that a tensor rank has, and the layers of a stage: numbers of layers differ by one at
// most.
IndexRange VocabularyOf(const DecoderConfig& config, const DecoderPart& part);
IndexRange LayersOf(const DecoderConfig& config, const DecoderPart& part);

}  // namespace waypoint::models

#endif  // MODELS_DECODER_SHARDING_H_
