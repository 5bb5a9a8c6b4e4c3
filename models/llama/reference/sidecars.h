#ifndef MODELS_LLAMA_REFERENCE_SIDECARS_H_
#define MODELS_LLAMA_REFERENCE_SIDECARS_H_

// What lies beside the weights in a directory: params.json, tokenizer files and the like.  Thread-safe.

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "checkpoint/base/json.h"
#include "checkpoint/format/checkpoint_format.h"
#include "checkpoint/storage/confined_directory.h"

namespace waypoint::models {

constexpr char kParamsName[] = "params.json";
constexpr char kChecklistName[] = "checklist.chk";
constexpr char kTokenizerChecklistName[] = "tokenizer_checklist.chk";

struct Sidecars {
  // Empty where there is no params.json.
  absl::optional<Json> params;
  std::string params_text;
  std::vector<Asset> assets;
  // params.json.
  std::vector<CheckpointFile> files;
  // What checklist.chk and tokenizer_checklist.chk have checksums of and is there.
  std::vector<ListedFile> listed;
  // Of what is left behind.
  std::vector<std::string> notes;
};

// `is_weights` tells by its name what somebody else reads.
// Errors: E_IO, E_PATH (a link out of the directory), E_MISSING (weights that a list names), those of ParseJson,
// ParseChecklist and CheckHfAsset.
absl::StatusOr<Sidecars> ReadSidecars(FileSystem& fs, const ConfinedDirectory& files,
                                      const std::function<bool(absl::string_view name)>& is_weights,
                                      const LoadOptions& options);

}  // namespace waypoint::models

#endif  // MODELS_LLAMA_REFERENCE_SIDECARS_H_
