#ifndef CHECKPOINT_CONTAINER_SAFETENSORS_HEADER_H_
#define CHECKPOINT_CONTAINER_SAFETENSORS_HEADER_H_

// The header of a safetensors file, checked completely before anything believes it.
//
//   +----------------+------------------------------+----------------------------------+
//   | n: u64, little | header: n bytes of JSON      | data: tensors, back to back      |
//   +----------------+------------------------------+----------------------------------+
//   0                8                              8 + n                              end of file
//   {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, "__metadata__": {"format": "pt"}}
//
// Rules of the reference implementation (huggingface/safetensors, tensor.rs, `SafeTensors::read_metadata` and
// `validate`), and three more: no name twice, no dimension or product of max(d, 1) beyond int64, the limits of
// limits.h. Does not link libtorch.  Thread-safe.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "checkpoint/base/dtype.h"
#include "checkpoint/base/limits.h"
#include "checkpoint/storage/file_system.h"
#include "checkpoint/tensor/box.h"

namespace waypoint {

struct SafetensorsEntry {
  std::string name;
  DType dtype = DType::kInvalid;
  Dims shape;
  int64_t begin = 0;  // bytes from the start of the file (not of the data)
  int64_t end = 0;
};

struct SafetensorsHeader {
  // Ascending by begin; together they cover the data without hole or overlap.
  std::vector<SafetensorsEntry> entries;
  std::map<std::string, std::string> metadata;
  int64_t data_begin = 0;
  int64_t file_bytes = 0;
};

// Reads and checks; reads nothing beyond the header.  Messages name the path, the tensor, the offset, what was found
// and what was expected; files of other kinds (git-lfs pointer, HTML, zip, pickle, GGUF) are named as such.
// Errors, in this order of checks: E_HEADER, E_LIMIT and E_TRUNCATED of the header's length, E_UTF8, then as they come
// E_JSON, E_DUP_KEY and E_LIMIT, then E_SCHEMA, E_DTYPE, E_OVERFLOW, E_OFFSETS, E_SIZE_MISMATCH, and at the end of the
// file E_TRUNCATED or E_TRAILING.
absl::StatusOr<SafetensorsHeader> ReadSafetensorsHeader(const ReadableFile& file, const Limits& limits);

// The same for a header in memory: `prefix` is the start of a file of `file_bytes` (8 + n bytes at least, or all of
// it).
absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(absl::string_view prefix, int64_t file_bytes,
                                                         absl::string_view path, const Limits& limits);

// The bytes of a header (length prefix included, padded with spaces so that data begins at a multiple of `alignment`,
// which is at least 1) for tensors in this order of data.  begin and end of the entries are set; shapes must be such
// that TensorBytes accepts them.  Equal input gives equal bytes: metadata comes first, keys sorted; tensors in file
// order.
std::string BuildSafetensorsHeader(std::vector<SafetensorsEntry>* entries,
                                   const std::map<std::string, std::string>& metadata, int64_t alignment = 8);

}  // namespace waypoint

#endif  // CHECKPOINT_CONTAINER_SAFETENSORS_HEADER_H_
