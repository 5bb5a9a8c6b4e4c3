#ifndef CHECKPOINT_CONTAINER_SAFETENSORS_INDEX_H_
#define CHECKPOINT_CONTAINER_SAFETENSORS_INDEX_H_

// model.safetensors.index.json: which of several safetensors files holds which tensor.  pytorch_model.bin.index.json
// has the same form.
//
//   {"metadata": {"total_size": 354688}, "weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors", ...}}
//
// total_size is the sum of the tensors' bytes.  Does not link libtorch.  Thread-safe.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "checkpoint/base/json.h"
#include "checkpoint/base/limits.h"

namespace waypoint {

inline constexpr absl::string_view kSafetensorsIndexName = "model.safetensors.index.json";
inline constexpr absl::string_view kBinIndexName = "pytorch_model.bin.index.json";

struct SafetensorsIndex {
  struct Place {
    std::string tensor;
    int file = 0;  // position in `files`
  };

  // Plain names that end in the extension, in the order in which the index first names them.
  std::vector<std::string> files;
  // In the order of the index; no tensor twice.
  std::vector<Place> places;
  // All of "metadata", total_size included; an empty object when the index has none.
  Json metadata = Json::object();
  absl::optional<int64_t> total_bytes;
};

// `path` is for messages.  Linear in time and memory.
//
// Errors, in this order: those of ParseJsonEvents, E_LIMIT (tensor_name_bytes, index_tensors, shard_files), E_SCHEMA
// (also for a total_size that is no whole number), E_PATH for a file name that is not plain or has not the extension,
// E_MISSING for an empty weight_map.  Unknown keys beside the two are ignored.
absl::StatusOr<SafetensorsIndex> ParseSafetensorsIndex(absl::string_view text, absl::string_view path,
                                                       const Limits& limits,
                                                       absl::string_view extension = ".safetensors");

// The text that Hugging Face's save_pretrained writes: json.dumps(indent=2, sort_keys=True) and a newline, non-ASCII
// escaped.  `metadata` is an object.  Source: transformers, modeling_utils.py, save_pretrained.
std::string BuildSafetensorsIndex(const std::map<std::string, std::string>& weight_map, const Json& metadata);

}  // namespace waypoint

#endif  // CHECKPOINT_CONTAINER_SAFETENSORS_INDEX_H_
