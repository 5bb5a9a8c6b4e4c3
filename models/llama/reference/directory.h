#ifndef MODELS_LLAMA_REFERENCE_DIRECTORY_H_
#define MODELS_LLAMA_REFERENCE_DIRECTORY_H_

// A directory of Meta's reference code, resolved and checked but for the model.
//
//   params.json            what the tensors do not tell; where it is lost, the model's name tells it
//   consolidated.00.pth    ... without gaps; no other *.pth, because Meta's loaders take every one that they find
//   tokenizer.model        and the like: assets
//
// Does not link libtorch.  Thread-safe.

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "checkpoint/container/torch_zip/torch_contents.h"
#include "checkpoint/format/checkpoint_format.h"
#include "checkpoint/storage/file_system.h"
#include "models/llama/reference/sidecars.h"

namespace waypoint::models {

struct ReferenceDirectory {
  // In order; tensor names begin with ReferencePrefix.
  std::vector<TorchContents> files;
  // By file.
  std::vector<CheckpointFile> described;
  Sidecars sidecars;
  std::vector<std::string> notes;  // those of the sidecars too
};

// consolidated.NN.pth
bool IsReferenceFile(absl::string_view name);

// Does a directory hold consolidated.00.pth, or any file of that kind?  By names alone; without params.json, Hugging
// Face's config.json says that the directory is another's.
absl::StatusOr<bool> LooksLikeReference(FileSystem& fs, const std::string& directory);

// A file that was saved under the name of another one, by what its archive says, is E_AMBIGUOUS: files that changed
// places are a model whose vocabulary did.
// Errors: E_IO (no directory, not a regular file), E_MISSING (no files, or a gap), E_EXTRA (another *.pth), E_PATH (a
// link out of the directory), E_EXTRA for tensors beside a state dict under "model", and those of ReadTorchFile,
// PrefixStripper and ReadSidecars.
absl::StatusOr<ReferenceDirectory> ReadReferenceDirectory(FileSystem& fs, const std::string& directory,
                                                          const LoadOptions& options);

}  // namespace waypoint::models

#endif  // MODELS_LLAMA_REFERENCE_DIRECTORY_H_
