#ifndef MODELS_LLAMA_REFERENCE_WEIGHTS_H_
#define MODELS_LLAMA_REFERENCE_WEIGHTS_H_

// Tensor names of Meta's reference code and the native ones, and how the reference code cuts tensors over files.  Other
// code bases with the same layout have names of their own.
//
//   tok_embeddings.weight                 embeddings.word_embeddings_weight               Llama 1, 2: columns; 3: rows
//   layers.{i}.attention.wq.weight        decoder.{i}.mixer.query.weight       interleaved  rows
//   layers.{i}.attention.wk.weight        decoder.{i}.mixer.key_value.weight   interleaved  rows
//   layers.{i}.attention.wv.weight          K rows, then V rows                             rows
//   layers.{i}.attention.wo.weight        decoder.{i}.mixer.dense.weight                  columns
//   layers.{i}.feed_forward.{w1,w3}       decoder.{i}.mlp.layer_1.weight                  rows
//   layers.{i}.feed_forward.w2.weight     decoder.{i}.mlp.layer_2.weight                  columns
//   layers.{i}.{attention,ffn}_norm       decoder.{i}.norm_1, norm_2                      in every file
//   norm.weight                           head.final_norm.weight                          in every file
//   output.weight                         head.output_weights; a copy when tied           rows
//
// Interleaved: rows 2i and 2i+1 of a head are channels i and i + d/2 of the native one.
// Source: meta-llama/llama and llama-models, model.py; fairscale, ColumnParallelLinear, RowParallelLinear,
// ParallelEmbedding, VocabParallelEmbedding.  Thread-safe.

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "checkpoint/convert/weights/weight_rules.h"
#include "models/llama/reference/model.h"

namespace waypoint::models {

// What somebody's code calls the tensors of a Llama.
struct LlamaNames {
  absl::string_view code;  // "reference", for messages
  absl::string_view embedding;
  absl::string_view layers;  // what stands before the layer's number
  // Behind the number and a dot.
  absl::string_view query;
  absl::string_view key;
  absl::string_view value;
  absl::string_view attention_output;
  absl::string_view gate;
  absl::string_view up;
  absl::string_view down;
  absl::string_view attention_norm;
  absl::string_view ffn_norm;

  absl::string_view final_norm;
  absl::string_view output;
};

inline constexpr LlamaNames kReferenceNames = {"reference",
                                               "tok_embeddings.weight",
                                               "layers.",
                                               "attention.wq.weight",
                                               "attention.wk.weight",
                                               "attention.wv.weight",
                                               "attention.wo.weight",
                                               "feed_forward.w1.weight",
                                               "feed_forward.w3.weight",
                                               "feed_forward.w2.weight",
                                               "attention_norm.weight",
                                               "ffn_norm.weight",
                                               "norm.weight",
                                               "output.weight"};

// "layers.3.attention.wq.weight"
std::string LayerTensorName(const LlamaNames& names, int64_t layer, absl::string_view tensor);

// Native tensors over those of one file that holds all, with interleaved heads.
WeightRules InterleavedWeightRules(const LlamaNames& names, const LlamaFacts& facts);

enum class ReferenceCut {
  kRows,
  kColumns,
  kEmbedding,  // rows or columns, by generation
  kHeads,      // rows, whole heads of keys or values: repeated where there are more files than heads
  kCopied,     // whole in every file
};

// How a tensor is cut; kCopied for names that the code does not have.
ReferenceCut CutOf(const LlamaNames& names, absl::string_view name);

// rope.freqs, which Llama 1 and 2 files hold.
bool IsRotaryTable(absl::string_view name);

// "consolidated.03.pth", "consolidated.03/": the file, and what the names of its tensors begin with.
std::string ReferenceFileName(int64_t file);
std::string ReferencePrefix(int64_t file);

}  // namespace waypoint::models

#endif  // MODELS_LLAMA_REFERENCE_WEIGHTS_H_
