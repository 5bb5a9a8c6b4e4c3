#ifndef CHECKPOINT_BASE_LIMITS_H_
#define CHECKPOINT_BASE_LIMITS_H_

// What a file may ask for.  A parser takes a Limits and refuses, with E_LIMIT and the limit's name, whatever goes
// beyond it, before it allocates.  The defaults admit every checkpoint that is known to exist.

#include <cstdint>

namespace waypoint {

struct Limits {
  // Bytes of a safetensors header; the reference implementation has the same bound.
  int64_t safetensors_header_bytes = 100'000'000;
  // Tensors and metadata entries of one safetensors file: what bounds the memory that a header of full size takes.
  int64_t safetensors_tensors = 500'000;
  int64_t safetensors_metadata_entries = 100'000;
  // Dimensions of all its tensors together.
  int64_t safetensors_dimensions = 2'000'000;
  // Nesting of JSON arrays and objects.
  int64_t json_depth = 64;
  // Keys of the JSON objects that are open at one place of a text.
  int64_t json_keys = 2'500'000;
  // config.json, generation_config.json, tokenizer_config.json and their like.
  int64_t json_file_bytes = int64_t{16} << 20;
  // tokenizer.json, vocab.json and their like; they are checked in memory, one at a time.
  int64_t tokenizer_file_bytes = int64_t{128} << 20;
  // model.safetensors.index.json.
  int64_t index_file_bytes = int64_t{256} << 20;
  // manifest.pb.
  int64_t manifest_file_bytes = int64_t{256} << 20;
  // A pass-through file (tokenizer, chat template), which is copied and never held whole.
  int64_t asset_file_bytes = int64_t{1} << 30;
  // Dimensions of one tensor.
  int64_t tensor_rank = 64;
  // Bytes of one tensor name.
  int64_t tensor_name_bytes = 65'536;
  // Tensors and files that one index may name.
  int64_t index_tensors = 2'000'000;
  int64_t shard_files = 100'000;
};

}  // namespace waypoint

#endif  // CHECKPOINT_BASE_LIMITS_H_
