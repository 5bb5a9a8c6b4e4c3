#ifndef MODELS_LLAMA_REFERENCE_IMPORT_SHARDS_H_
#define MODELS_LLAMA_REFERENCE_IMPORT_SHARDS_H_

// From the tensors of all files of a checkpoint to the native model: what it is, that it does not contradict itself,
// and every native tensor.  Serves Meta's reference code and all that have its layout under other names.
//
// Reads tensor data only where contents decide: repeated heads, replicated norms, a tied output.  Thread-safe.

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "checkpoint/container/torch_zip/torch_contents.h"
#include "checkpoint/format/checkpoint_format.h"
#include "models/llama/reference/options.h"
#include "models/llama/reference/params.h"
#include "models/llama/reference/shards.h"

namespace waypoint::models {

struct ShardedCheckpoint {
  // Names begin with the prefixes of the set.
  std::unique_ptr<TensorSource> files;
  ShardSet set;
  // Where there is a params.json and it is to be believed.
  absl::optional<ReferenceParams> params;
  // The output is known to be the embedding's elements in every file, so that nothing need be compared.
  bool shared_output = false;
};

// Are both the same elements of the file?
bool ShareStorage(const TorchContents& file, absl::string_view a, absl::string_view b);

// What to say where such a file lacks tensors: which beginning of its names would have to go (strip_prefix.h).  Names
// begin with `prefix`.
std::string UnwrapRemedy(const TorchContents& file, const LlamaNames& names, absl::string_view prefix);

// Fills all but assets, the name of the external format and the text of params.json.
// Errors: those of ReadShards, FindKvHeads, ResolveReferenceModel, CompareReplicas and PlanImport; E_MISSING for an
// output that is not there and not said to be tied; E_CONFIG where --tied or the number of copied heads is not so.
absl::StatusOr<OpenedCheckpoint> ImportShards(ShardedCheckpoint checkpoint, const ReferenceOptions& options);

}  // namespace waypoint::models

#endif  // MODELS_LLAMA_REFERENCE_IMPORT_SHARDS_H_
