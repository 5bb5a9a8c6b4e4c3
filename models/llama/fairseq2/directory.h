#ifndef MODELS_LLAMA_FAIRSEQ2_DIRECTORY_H_
#define MODELS_LLAMA_FAIRSEQ2_DIRECTORY_H_

// A directory of fairseq2, resolved and checked but for the model.
//
//   model.pt                                 0.3 and 0.4: the whole model
//   model.0.pt, model.1.pt ...               0.3 and 0.4: one file per tensor-parallel rank
//   [model/]pp_00/tp_00/sdp_00.pt ...        0.5 and later: pipeline stage, tensor-parallel rank, and piece of that
//                                            rank's rows (fully sharded data parallel)
//
// fairseq2 stops at the first gap in any numbering and takes model.pt before all else; here a gap and a second model
// are errors.  Does not link libtorch.  Thread-safe.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "checkpoint/container/torch_zip/torch_contents.h"
#include "checkpoint/format/checkpoint_format.h"
#include "checkpoint/storage/file_system.h"
#include "models/llama/reference/sidecars.h"

namespace waypoint::models {

// How many files there are: of each stage, each tensor-parallel rank, each of its pieces.
struct Fairseq2Grid {
  int64_t stages = 1;
  int64_t tensor_parallel = 1;
  int64_t pieces = 1;

  int64_t FileIndex(int64_t stage, int64_t rank, int64_t piece) const {
    return (stage * tensor_parallel + rank) * pieces + piece;
  }
  int64_t num_files() const { return stages * tensor_parallel * pieces; }
};

struct Fairseq2File {
  std::string name;    // "pp_00/tp_01/sdp_00.pt"
  std::string prefix;  // "pp_00/tp_01/sdp_00/", with which the names of its tensors begin
  TorchContents contents;
  CheckpointFile described;
};

struct Fairseq2Directory {
  Fairseq2Grid grid;
  // By Fairseq2Grid::FileIndex.  Tensors of the state dict only, under the names that fairseq2 has for them.
  std::vector<Fairseq2File> files;
  Sidecars sidecars;
  std::vector<std::string> notes;  // those of the sidecars too
};

// model.pt or model.N.pt: what the writer makes.
bool IsFairseq2File(absl::string_view name);

// Is there a model.pt, a model.0.pt or a pp_00, and no weights of another format?  By names alone.
absl::StatusOr<bool> LooksLikeFairseq2(FileSystem& fs, const std::string& directory);

// Errors: E_IO (no directory, not a regular file), E_MISSING (no files, a gap, ranks with different numbers of files),
// E_AMBIGUOUS (two models), E_PATH (a link), E_LIMIT (shard_files), and those of ReadTorchFile, TakeStateDict and
// ReadSidecars.
absl::StatusOr<Fairseq2Directory> ReadFairseq2Directory(FileSystem& fs, const std::string& directory,
                                                        const LoadOptions& options);

}  // namespace waypoint::models

#endif  // MODELS_LLAMA_FAIRSEQ2_DIRECTORY_H_
