#ifndef MODELS_LLAMA_FAIRSEQ2_PIECES_H_
#define MODELS_LLAMA_FAIRSEQ2_PIECES_H_

// The files of a directory as those of the tensor-parallel ranks: pieces of rows joined, pipeline stages together.
//
// Fully sharded training cuts each tensor of a rank, norms too, along its rows as torch.chunk does: ceil(rows / pieces)
// each until they run out.  A file that gets none holds an empty tensor (of any type, FSDP 1: float32 [0]) or none.
// A tensor belongs to one stage; a tied embedding may be in two, and must be the same then.
// Source: fairseq2 0.5 to 0.8, models/checkpoint and nn/fsdp; torch.chunk.  Thread-safe.

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "checkpoint/convert/weights/converted_source.h"
#include "models/llama/fairseq2/directory.h"
#include "models/llama/reference/shards.h"

namespace waypoint::models {

// One entry per tensor-parallel rank.
ShardSet Fairseq2Shards(const std::vector<Fairseq2File>& files, const Fairseq2Grid& grid);

struct JoinedPieces {
  std::unique_ptr<TensorSource> tensors;  // names begin with the prefixes of the set
  std::vector<std::string> notes;
};

// `source` holds the tensors of `files`, whose contents are not looked at.  Reads data of tensors that are in several
// stages, nothing else.
// Errors: E_MISSING for a piece that is not there, E_SHAPE and E_DTYPE for pieces that do not fit each other, E_DUP_KEY
// for a tensor that two stages have differently; each names the tensor and the file.
absl::StatusOr<JoinedPieces> JoinPieces(std::unique_ptr<TensorSource> source, const std::vector<Fairseq2File>& files,
                                        const Fairseq2Grid& grid, const ShardSet& set);

}  // namespace waypoint::models

#endif  // MODELS_LLAMA_FAIRSEQ2_PIECES_H_
