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
  int64_t index_file_bytes = int64_t{64} << 20;
  // manifest.pb.
  int64_t manifest_file_bytes = int64_t{256} << 20;
  // A pass-through file (tokenizer, chat template), which is copied and never held whole.
  int64_t asset_file_bytes = int64_t{1} << 30;
  // Dimensions of one tensor.
  int64_t tensor_rank = 64;
  // Bytes of one tensor name.
  int64_t tensor_name_bytes = 65'536;
  // data.pkl of a PyTorch file, after decompression; it is held in memory.
  int64_t pickle_bytes = int64_t{64} << 20;
  // Values that one pickle makes (a list, set or dict counts as 4, an item of one or of a tuple as a quarter more),
  // places of its memo, and values on its stack.
  int64_t pickle_values = 4'000'000;
  int64_t pickle_memo = 4'000'000;
  int64_t pickle_stack = 4'000'000;
  // Nesting of containers in a pickle.
  int64_t pickle_depth = 256;
  // Tensors of one PyTorch file, and bytes of their names and shapes.  Eight times as many bytes of names may be passed
  // on the way to them.
  int64_t torch_tensors = 500'000;
  int64_t torch_listing_bytes = int64_t{128} << 20;
  // Entries of a zip archive, and bytes of its directory.
  int64_t zip_entries = 1'000'000;
  int64_t zip_directory_bytes = int64_t{64} << 20;
  // What a tensor with repeated elements, or a compressed record, may unfold to: this many bytes, or expand_factor
  // times what is stored if that is more.
  int64_t expand_bytes = int64_t{64} << 20;
  int64_t expand_factor = 16;
  // The same for all tensors, or all compressed records, of one file together, and for all tensors of the files of one
  // checkpoint: few bytes that describe many tensors would keep a reader busy for hours.  Enough for the expanded
  // buffers of a model that is small itself, in about a second of work, and a factor that lets many layers share one
  // storage.
  int64_t expand_file_bytes = int64_t{256} << 20;
  int64_t expand_file_factor = 64;
  // Tensors and files that one index may name.
  int64_t index_tensors = 500'000;
  int64_t shard_files = 100'000;
};

}  // namespace waypoint

#endif  // CHECKPOINT_BASE_LIMITS_H_
