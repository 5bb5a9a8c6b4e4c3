#ifndef MODELS_LLAMA_REFERENCE_PARAMS_H_
#define MODELS_LLAMA_REFERENCE_PARAMS_H_

// params.json of Meta's reference code: reading any of its dialects, writing the one that a consumer accepts.
//
//   Llama 1    {"dim": 4096, "multiple_of": 256, "n_heads": 32, "n_layers": 32, "norm_eps": 1e-06, "vocab_size": -1}
//   Llama 2    may add n_kv_heads and ffn_dim_multiplier
//   Llama 3    adds rope_theta, use_scaled_rope and the true vocab_size
//   fairseq2   {"model": {"dim": ..., "rope_theta": ..., "norm_eps": ...}}, without vocab_size and use_scaled_rope
//
// Source: meta-llama/llama and meta-llama/llama-models, ModelArgs; fairseq2 0.4, `llama convert_checkpoint`.
// Thread-safe.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "checkpoint/base/json.h"
#include "checkpoint/convert/config/carried_key.h"

namespace waypoint::models {

struct ReferenceParams {
  absl::optional<int64_t> dim;
  absl::optional<int64_t> n_layers;
  absl::optional<int64_t> n_heads;
  absl::optional<int64_t> n_kv_heads;
  // Absent where the file says -1: the tokenizer's.
  absl::optional<int64_t> vocab_size;
  absl::optional<int64_t> multiple_of;
  absl::optional<double> ffn_dim_multiplier;
  absl::optional<double> norm_eps;
  absl::optional<double> rope_theta;
  absl::optional<bool> use_scaled_rope;
  // {"model": {...}}.
  bool nested = false;
  // Keys that nothing above holds: max_seq_len, max_batch_size, and unknown ones that were let in.
  std::vector<CarriedKey> carried;
  // Names what was let in.
  std::vector<std::string> notes;
};

// null means absent.  Messages leave it to the caller to name the file.  All problems come in one error, in which one
// entry lists all the unknown keys.
// Errors: E_SCHEMA when it is no object; E_UNSUPPORTED when it speaks of what the format does not read (vision,
// mixtures of experts, quantized or adapter weights); E_CONFIG else: unknown keys unless they are carried, values of a
// wrong type or range.
absl::StatusOr<ReferenceParams> ReadReferenceParams(const Json& document, bool carry_unknown);

enum class ReferenceConsumer {
  kLlama1,    // meta-llama/llama, branch llama_v1: any other key is a TypeError
  kLlama2,    // meta-llama/llama: knows no rope_theta
  kLlama3,    // meta-llama/llama-models: wants all, drops what it does not know
  kFairseq2,  // what fairseq2's `llama convert_checkpoint` writes, to the byte
};

// "llama1", "llama2", "llama3", "fairseq2".
absl::string_view ConsumerName(ReferenceConsumer consumer);
// Errors: E_REQUEST listing the names.
absl::StatusOr<ReferenceConsumer> ParseConsumer(absl::string_view name);

// Whose file it is, by its keys.
ReferenceConsumer ConsumerOf(const ReferenceParams& params);

// With which fairseq2 computes every model, and which it writes for every model, whatever it was trained with.
inline constexpr double kFairseq2Epsilon = 1e-5;
// Is norm_eps that of fairseq2's file, which does not tell the model's own?
bool HasFairseq2Epsilon(const ReferenceParams& params);

// The file's text, as the consumer's own files look: one line.  `params` holds all that the consumer may need; what it
// has no key for is left out, so that the caller checks that first.  n_kv_heads and ffn_dim_multiplier are left out
// where they say nothing, but for Llama 3.
std::string WriteReferenceParams(const ReferenceParams& params, ReferenceConsumer consumer);

// Python's json.dumps(value): one line, ", " and ": ".
std::string JsonLine(const Json& value);

}  // namespace waypoint::models

#endif  // MODELS_LLAMA_REFERENCE_PARAMS_H_
