#ifndef MODELS_LLAMA_REFERENCE_SHARDS_H_
#define MODELS_LLAMA_REFERENCE_SHARDS_H_

// The files of a reference checkpoint as one set of tensors, and one set of tensors as files.
//
// In a source over all files the name of a tensor begins with the prefix of its file.  Planning only but for the two
// functions that compare.  Thread-safe.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "checkpoint/convert/weights/converted_source.h"
#include "checkpoint/tensor/tensor_source.h"
#include "models/llama/reference/model.h"
#include "models/llama/reference/weights.h"

namespace waypoint::models {

// The files, and what their tensors are called.
struct ShardSet {
  struct File {
    std::string name;    // "consolidated.03.pth", for messages
    std::string prefix;  // "consolidated.03/"
  };
  const LlamaNames* names = &kReferenceNames;
  std::vector<File> files;

  int64_t count() const { return static_cast<int64_t>(files.size()); }
};

// Meta's.
ShardSet ReferenceShards(int64_t count);

struct ShardedTensors {
  ShardSet set;
  ReferenceTensors tensors;
  // Names of the first file, in its order; every file has the same.
  std::vector<std::string> names;
  // Of tok_embeddings.weight: 0 or 1; 0 for one file.
  int embedding_dim = 0;
};

// Finds out from shapes alone what the files hold together.
// Errors: E_MISSING for tensors that the format cannot be without and for those that some of the files lack; E_EXTRA
// for those that only later files have; E_DTYPE and E_SHAPE where files differ, or do not fit each other.
absl::StatusOr<ShardedTensors> ReadShards(const Manifest& files, const ShardSet& set);

// The tensors of all files as those of one.  kv_copies: of each head of keys and values, next to each other, only the
// first is taken.
absl::StatusOr<std::vector<ConvertedTensor>> MergeShards(const Manifest& files, const ShardedTensors& shards,
                                                         int64_t kv_copies);

// How often each head of keys and values is repeated over the files, one head in each, over all layers: the largest
// number that holds for every layer, 1 when no neighbours are equal.  Reads what is equal once more, nothing else.
absl::StatusOr<int64_t> CountKvCopies(TensorSource& files, const ShardedTensors& shards);

// Is there a head of keys or values whose elements differ?  If not, equal heads may be no copies.
absl::StatusOr<bool> KvHeadsHaveValues(TensorSource& files, const ShardedTensors& shards);

struct ReplicaDeviation {
  double largest = 0;
  std::string tensor;   // where
  int64_t tensors = 0;  // that are not the same everywhere
};

// Compares tensors that every file holds whole, one tensor of all files at a time.
// Errors: E_AMBIGUOUS naming the tensor and both files when they are further apart than `tolerance`, or one is NaN.
absl::StatusOr<ReplicaDeviation> CompareReplicas(TensorSource& files, const ShardedTensors& shards, double tolerance);

// One way to cut a model over files.
struct ReferenceLayout {
  int64_t files = 1;
  int embedding_dim = 0;
};

// Errors: E_REQUEST when something does not divide, naming all of it, with the numbers of files that are possible.
absl::Status CheckLayout(const LlamaShape& shape, const ReferenceLayout& layout);

// The tensors of all files, file by file, in the order of `tensors` (those of one file, over some source).  The set has
// as many files as the layout.
absl::StatusOr<std::vector<ConvertedTensor>> SplitShards(const std::vector<ConvertedTensor>& tensors,
                                                         const ShardSet& set, const LlamaShape& shape,
                                                         const ReferenceLayout& layout);

}  // namespace waypoint::models

#endif  // MODELS_LLAMA_REFERENCE_SHARDS_H_
