#ifndef TESTS_BENCHMARKS_SYNTHETIC_CHECKPOINT_H_
#define TESTS_BENCHMARKS_SYNTHETIC_CHECKPOINT_H_

// Checkpoints of real sizes that nobody has to download: the shapes of known Llama models with reproducible values.
//
// Values are made where they are read, so that a checkpoint of any size is written in constant memory.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "checkpoint/storage/file_system.h"
#include "checkpoint/tensor/tensor_source.h"

namespace waypoint {

struct LlamaShape {
  std::string name;
  int64_t hidden = 0;
  int64_t intermediate = 0;
  int64_t layers = 0;
  int64_t heads = 0;
  int64_t key_value_heads = 0;
  int64_t vocabulary = 0;
  bool tied = false;
};

// "1b" and "8b": Llama-3.2-1B and Llama-3.1-8B (2.5 and 16 GB in 16 bits).  "single-2gib-tensor": an embedding of
// exactly 2 GiB in 16 bits and little else.  "1000-tensors": small ones, about 1,000 of them.
const std::vector<LlamaShape>& KnownShapes();

// Pseudo-random tensors; each value depends on the seed, the tensor and the place in it, and on nothing else.  All are
// finite, of both signs, between 2^-8 and 1 in magnitude.  float16, bfloat16 and float32.  Thread-safe.
class RandomSource : public TensorSource {
 public:
  RandomSource(Manifest manifest, uint64_t seed) : manifest_(std::move(manifest)), seed_(seed) {}

  const Manifest& manifest() const override { return manifest_; }
  absl::Status Read(absl::Span<const ReadRequest> requests) override;

 private:
  const Manifest manifest_;
  const uint64_t seed_;
};

// Writes a Hugging Face directory: config.json, generation_config.json, model*.safetensors and, with several, an index.
// Errors: E_EXISTS, E_IO, E_NO_SPACE.
absl::Status WriteSyntheticLlama(FileSystem& fs, const LlamaShape& shape, DType dtype, uint64_t seed,
                                 int64_t max_shard_bytes, const std::string& directory);

}  // namespace waypoint

#endif  // TESTS_BENCHMARKS_SYNTHETIC_CHECKPOINT_H_
