#ifndef MODELS_LLAMA_REFERENCE_ARCHITECTURES_H_
#define MODELS_LLAMA_REFERENCE_ARCHITECTURES_H_

// The Llama models that were released, with everything that their weights do not tell.
//
// Sources: Meta's params.json and model cards; fairseq2's registry, whose 13b has 32 layers instead of the model's 40.
// Thread-safe.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace waypoint::models {

// What of a model its tensors determine, once the number of heads is known.
struct LlamaShape {
  int64_t dim = 0;
  int64_t layers = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t ffn = 0;
  int64_t vocab = 0;
};

struct LlamaArchitecture {
  const char* name;
  LlamaShape shape;
  // As in params.json; 1.0 where Meta's file has none.
  double ffn_dim_multiplier;
  int64_t multiple_of;
  double rope_theta;
  // Of the rotary embedding; 0: not scaled.
  double scale_factor;
  double norm_eps;
  // Another one with which checkpoints of this architecture were released; the same where there is none.
  double other_norm_eps;
  int64_t max_positions;
  bool tied;
  // Files that it ships as.
  int64_t model_parallel;
  // What fairseq2's registry says where that is wrong; else the same as shape.layers.
  int64_t fairseq2_layers;
  // fairseq2 has an architecture of that name.
  bool in_fairseq2;
};

const std::vector<LlamaArchitecture>& LlamaArchitectures();

// By name; "llama_" before a Llama 1 name and "_chat" or "_instruct" behind any are the same architecture.
// Errors: E_REQUEST listing the names.
absl::StatusOr<const LlamaArchitecture*> FindLlamaArchitecture(absl::string_view name);

// Those of exactly this shape, in the order of the table.
std::vector<const LlamaArchitecture*> ArchitecturesOfShape(const LlamaShape& shape);

// Those that the model is but for entries that may have been added to its vocabulary: of several, those with the
// largest.
std::vector<const LlamaArchitecture*> ArchitecturesLike(const LlamaShape& shape);

// Size of the hidden layer of the MLP.  Source: meta-llama/llama, model.py, FeedForward.
int64_t FfnSize(int64_t dim, double multiplier, int64_t multiple_of);

// A multiplier and a multiple_of that make `ffn` of `dim`, here and in transformers' conversion script, and if possible
// in fairseq2, which rounds differently: those of a released architecture with both sizes, or the roundest.
struct FfnParams {
  double multiplier = 1.0;
  int64_t multiple_of = 256;
};
// Errors: E_UNSUPPORTED when there are none.
absl::StatusOr<FfnParams> FindFfnParams(const LlamaShape& shape);

}  // namespace waypoint::models

#endif  // MODELS_LLAMA_REFERENCE_ARCHITECTURES_H_
