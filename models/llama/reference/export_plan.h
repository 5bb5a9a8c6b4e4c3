#ifndef MODELS_LLAMA_REFERENCE_EXPORT_PLAN_H_
#define MODELS_LLAMA_REFERENCE_EXPORT_PLAN_H_

// What a reference checkpoint of a model shall look like: how many files, how they are cut, the text of params.json.
// Does not touch a file.  Thread-safe.

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "checkpoint/format/checkpoint_format.h"
#include "checkpoint/format/metadata.pb.h"
#include "models/llama/reference/options.h"
#include "models/llama/reference/shards.h"

namespace waypoint::models {

// Key of CheckpointMetadata::external_configs under which the layout of a checkpoint that was read is remembered:
// {"model_parallel": 2, "embedding_dim": 1}.
constexpr char kLayoutKey[] = "consolidated.layout.json";

std::string LayoutText(const ReferenceLayout& layout);

// CheckpointFormat::FindCarriedKeys of the formats with a params.json.
absl::StatusOr<std::map<std::string, std::vector<CarriedKey>>> FindCarriedParams(const CheckpointMetadata& metadata);

struct ReferenceExport {
  LlamaFacts facts;
  ReferenceLayout layout;
  // CheckpointWriter::ReadBackOptions.
  FormatOptionValues read_back;
  std::string params_text;
  std::vector<std::string> notes;
};

// params.json comes back as it was, byte for byte, when the model came from a reference checkpoint, still is what that
// file says and no option asks for another; else it is written for the consumer.  Whatever is written is read again and
// must give the same model.
//
// Errors: E_UNSUPPORTED for what the format, or the consumer, cannot say: all of it, each with what to do; E_REQUEST
// for a layout that does not divide and options that exclude each other; E_CONFIG for a --model that the config
// contradicts.
absl::StatusOr<ReferenceExport> PlanReferenceExport(const CheckpointMetadata& metadata,
                                                    const ReferenceOptions& options);

}  // namespace waypoint::models

#endif  // MODELS_LLAMA_REFERENCE_EXPORT_PLAN_H_
