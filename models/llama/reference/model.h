#ifndef MODELS_LLAMA_REFERENCE_MODEL_H_
#define MODELS_LLAMA_REFERENCE_MODEL_H_

// Which model a reference checkpoint is: what its tensors determine, what only params.json or the model's name can
// tell, and that the three agree.  Does not read any file.  Thread-safe.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "models/decoder/config.pb.h"
#include "models/llama/reference/architectures.h"
#include "models/llama/reference/params.h"

namespace waypoint::models {

// What the tensors of all files together determine.
struct ReferenceTensors {
  int64_t dim = 0;
  int64_t layers = 0;
  int64_t vocab = 0;
  int64_t ffn = 0;
  // Rows of wk, repeated heads included.
  int64_t key_rows = 0;
  int64_t files = 1;
};

// What the user says.
struct ReferenceHints {
  const LlamaArchitecture* architecture = nullptr;
  absl::optional<double> rope_factor;
  // How many neighbouring files hold the same head of keys and values; unset: what the name says, else what they hold.
  absl::optional<int64_t> kv_copies;
  // Where params.json does not say it, or is fairseq2's, which says the same of every model; goes before the name's.
  absl::optional<double> norm_eps;
  // Believe the tensors where params.json has the number of layers that fairseq2 wrongly gives the architecture, or
  // where they have it themselves; and where its multiplier does not make the hidden layer.
  bool fairseq2_errors = false;
};

// How many heads of keys and values the files hold, and how many of them are copies.
struct StoredKvHeads {
  int64_t head_size = 0;
  int64_t stored = 0;
  // Copies of each; 0: one head in each of several files, of which only the contents tell whether they are copies.
  int64_t copies = 1;
};

struct ReferenceModel {
  // Not tied; the caller compares.
  DecoderConfig config;
  // Of the released model, or of the generation; params.json does not say it.
  int64_t max_positions = 0;
  // Tokens of the generation's tokenizer, which begin and end a text; -1: nothing tells the generation.
  int64_t bos_token = -1;
  int64_t eos_token = -1;
  // What was assumed.
  std::vector<std::string> notes;
};

// Number of heads, from params.json or the model's name.
// Errors: E_CONFIG when they disagree, nobody says it, or it or kv_copies does not fit the tensors.
absl::StatusOr<StoredKvHeads> FindKvHeads(const ReferenceTensors& tensors, const ReferenceParams* params,
                                          const ReferenceHints& hints);

// `params` null: there is no file, or it shall not be believed.  `kv_heads`: without copies.
// Errors: all contradictions with tensors, params.json or the model's name, each with both values; E_SHAPE, E_MISSING,
// E_EXTRA or E_CONFIG, as the first one is.  A hidden layer that multiple_of and ffn_dim_multiplier do not make is a
// note with fairseq2_errors.
absl::StatusOr<ReferenceModel> ResolveReferenceModel(const ReferenceTensors& tensors, int64_t kv_heads,
                                                     const ReferenceParams* params, const ReferenceHints& hints);

// The config of a Llama that the format can express.
struct LlamaFacts {
  LlamaShape shape;
  double theta = 10000.0;
  double scale_factor = 0;  // 0: not scaled
  double epsilon = 1e-5;
  bool tied = false;
};
DecoderConfig ConfigOf(const LlamaFacts& facts);

// The reverse.  Errors: E_UNSUPPORTED naming every field that a reference checkpoint cannot say, with both values;
// E_CONFIG as ValidateConfig.
absl::StatusOr<LlamaFacts> FactsOf(const DecoderConfig& config);

}  // namespace waypoint::models

#endif  // MODELS_LLAMA_REFERENCE_MODEL_H_
