#ifndef MODELS_LLAMA_LLAMA_CONFIG_H_
#define MODELS_LLAMA_LLAMA_CONFIG_H_

// config.json of LlamaForCausalLM (model_type "llama"), as transformers 4.31 to 5.12 write it, and the native config.
//
//   WAYPOINT_ASSIGN_OR_RETURN(const Json document, ParseJson(text, path, limits));
//   WAYPOINT_ASSIGN_OR_RETURN(ImportedConfig imported, ImportLlamaConfig(document, /*carry_unknown=*/false));
//   ...
//   WAYPOINT_ASSIGN_OR_RETURN(const Json again, ExportLlamaConfig(imported.config, &document, {}));
//
// Does not link libtorch.  Thread-safe.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "checkpoint/base/dtype.h"
#include "checkpoint/base/json.h"
#include "checkpoint/convert/config/config_converter.h"
#include "checkpoint/convert/config/primitives.h"
#include "checkpoint/convert/config/section.h"
#include "checkpoint/format/metadata.pb.h"
#include "models/decoder/config.pb.h"

namespace waypoint::models {

struct ImportedConfig {
  DecoderConfig config;
  // For the user: defaults that were taken, unknown keys that were let in.
  std::vector<std::string> notes;
  // Keys that only the original document holds.
  std::vector<CarriedKey> carried;
};

// Absent keys have the defaults of transformers' LlamaConfig.  null means absent, but for the five sizes (vocab_size,
// hidden_size, intermediate_size, num_hidden_layers, num_attention_heads), for which transformers has no such meaning.
// auto_map is carried and never run.
//
// All problems in one error, unknown keys included (config_converter.h); then ValidateConfig.
// Errors: E_SCHEMA when it is no object; E_UNSUPPORTED for another model_type or architecture, a quantized model, a
// rope type or a value of a recognised key that is not supported; E_CONFIG for all else.
absl::StatusOr<ImportedConfig> ImportLlamaConfig(const Json& config, bool carry_unknown);

struct ExportConfigOptions {
  // Only for weights that are cast, or that have no original: becomes torch_dtype (or dtype).
  absl::optional<DType> weights_dtype;
  // Overrides the original's and the facts'; 0 is E_REQUEST.
  absl::optional<int64_t> max_position_embeddings;
  // What is set goes before the original; but for max_position_embeddings where the model computes with it (a dynamic
  // rotary embedding).
  ModelFacts facts;
  // Without an original only; the original's layout is kept.
  ExternalLayout layout = ExternalLayout::kTransformers4;
};

// With an original, an unchanged config gives every key the value that it had, in the same order; a change against it
// is written.  Without one, all keys that the native config models are written, sorted as transformers does it, with
// max_position_embeddings from the facts, or the context that the rotary embedding was scaled to
// (original_context_length times the factor; dynamic: original_context_length), or 2048; and torch_dtype if
// weights_dtype is given.
//
// Errors: E_CONFIG when the config is invalid, or says what a Llama config cannot say (every such field); E_UNSUPPORTED
// for a rotary embedding that it does not have; E_REQUEST for options; the errors of ImportLlamaConfig for the
// original.
absl::StatusOr<Json> ExportLlamaConfig(const DecoderConfig& config, const Json* original,
                                       const ExportConfigOptions& options);

// The declarations, for families that derive from them by key (checkpoint/convert/config/README.md).
const Section& LlamaSection();

// hidden_act: transformers' names of activations.  gelu is exact; gelu_new and gelu_pytorch_tanh are its tanh
// approximation.
Codec TransformersActivation();

}  // namespace waypoint::models

#endif  // MODELS_LLAMA_LLAMA_CONFIG_H_
