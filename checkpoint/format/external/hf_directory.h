#ifndef CHECKPOINT_FORMAT_EXTERNAL_HF_DIRECTORY_H_
#define CHECKPOINT_FORMAT_EXTERNAL_HF_DIRECTORY_H_

// A Hugging Face model directory, resolved and checked but for the model: config, headers of all weight files, assets.
//
//   WAYPOINT_ASSIGN_OR_RETURN(const HfDirectory hf, ReadHfDirectory(fs, "Llama-3-8B", options));
//   ... hf.shards, or else hf.bin_shards ...
//
// Weights are model.safetensors, else the files of model.safetensors.index.json, else pytorch_model.bin, else the files
// of pytorch_model.bin.index.json.  The choice is by name: a broken safetensors file never makes a .bin file the
// answer. Files are opened one at a time.  What links may point to: confined_directory.h.  Does not link libtorch.
// Thread-safe.

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "checkpoint/base/json.h"
#include "checkpoint/container/chunk_recorder.h"
#include "checkpoint/container/safetensors/header.h"
#include "checkpoint/container/torch_zip/torch_contents.h"
#include "checkpoint/format/checkpoint_format.h"
#include "checkpoint/storage/file_system.h"

namespace waypoint {

struct HfShard {
  std::string name;  // plain file name
  std::string path;  // to open; links resolved
  SafetensorsHeader header;
  std::shared_ptr<ChunkRecorder> recorder;  // with LoadOptions::record_digests
};

struct HfBinShard {
  std::string name;
  TorchContents contents;  // its path is the one to open
  std::shared_ptr<ChunkRecorder> recorder;
};

struct HfDirectory {
  std::string path;
  // config.json: an object, and its text.
  Json config;
  std::string config_text;
  // No tensor is in two of them.
  std::vector<HfShard> shards;
  // Only when there is no safetensors file.
  std::vector<HfBinShard> bin_shards;
  // Config, index and shards.
  std::vector<CheckpointFile> files;
  std::vector<Asset> assets;
  // What was left behind, and rival weights that were not taken.
  std::vector<std::string> notes;
};

// CheckpointFormat::OwnFiles: config.json, and of the weights that are read the index and the files that it names, or
// the single file.
absl::StatusOr<std::vector<std::string>> HfOwnFiles(FileSystem& fs, const std::string& directory);

// Checks in this order: config.json, index, file names, presence and then header of every shard, index against shards,
// assets.  With options.strict also: total_size, rival weights, names that differ only by case.  Names of tensors are
// those of the files, which the index has too, without options.strip_prefixes.
//
// Errors: E_IO (no directory, no config.json, not a regular file), E_PATH, E_MISSING (no weights, a shard, or a tensor
// that is not in the shard where the index says), E_EXTRA (a tensor that the index does not list), E_DUP_KEY (a tensor
// in two shards), E_SIZE_MISMATCH (total_size), E_AMBIGUOUS (rivals, case), E_SCHEMA (config.json is no object),
// E_HEADER (a pointer of git-lfs or the like in place of a file), and those of ParseJson, ParseSafetensorsIndex,
// ReadSafetensorsHeader, ReadTorchFile, CheckHfAsset and PrefixStripper.
absl::StatusOr<HfDirectory> ReadHfDirectory(FileSystem& fs, const std::string& directory, const LoadOptions& options);

}  // namespace waypoint

#endif  // CHECKPOINT_FORMAT_EXTERNAL_HF_DIRECTORY_H_
