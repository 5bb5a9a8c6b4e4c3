#ifndef MODELS_LLAMA_REFERENCE_OPTIONS_H_
#define MODELS_LLAMA_REFERENCE_OPTIONS_H_

// What a user can tell the reference format beside the checkpoint itself.  Thread-safe.

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "checkpoint/format/checkpoint_format.h"
#include "models/llama/reference/model.h"
#include "models/llama/reference/params.h"

namespace waypoint::models {

struct ReferenceOptions {
  ReferenceHints hints;
  // Reading.
  bool ignore_params = false;
  double replica_tolerance = 0.01;
  // Whether output.weight is a copy of tok_embeddings.weight; unset: when the bytes are the same.
  absl::optional<bool> tied;
  // Writing.
  absl::optional<int64_t> model_parallel;
  absl::optional<ReferenceConsumer> consumer;
  // For whom a params.json is written that cannot be taken over and for which no consumer is chosen; unset: whose file
  // it was, else the oldest code that can run the model.  No option of a user.
  absl::optional<ReferenceConsumer> fresh_consumer;
  absl::optional<bool> nested;
  bool emit_rope_freqs = false;
};

// For --help.
std::vector<FormatOption> ReferenceFormatOptions();

// Values whose names were checked.  Errors: E_REQUEST naming the option, its value and what is wanted.
absl::StatusOr<ReferenceOptions> ParseReferenceOptions(const FormatOptionValues& values);

}  // namespace waypoint::models

#endif  // MODELS_LLAMA_REFERENCE_OPTIONS_H_
