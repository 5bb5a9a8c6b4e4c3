#ifndef CHECKPOINT_CONTAINER_TORCH_ZIP_TORCH_CONTENTS_H_
#define CHECKPOINT_CONTAINER_TORCH_ZIP_TORCH_CONTENTS_H_

// What a file of torch.save holds: everything but the elements.

#include <cstdint>
#include <string>
#include <vector>

#include "checkpoint/base/dtype.h"
#include "checkpoint/tensor/box.h"

namespace waypoint {

// Elements that one or more tensors look at.
struct TorchStorage {
  std::string key;
  int64_t data_begin = 0;    // in the file
  int64_t stored_bytes = 0;  // in the file; differs from bytes only where deflated
  int64_t bytes = 0;
  bool deflated = false;
  // 0: the writer did not compute it.
  uint32_t crc32 = 0;
};

struct TorchTensor {
  std::string name;
  DType dtype = DType::kInvalid;
  Dims shape;
  // In elements; element i is number offset + sum(i[d] * strides[d]) of the storage, and lies inside.
  Dims strides;
  int64_t offset = 0;
  int64_t storage = 0;  // position in TorchContents::storages
};

// A leaf that is no tensor.
struct TorchValue {
  std::string path;  // dotted, as tensor names are
  std::string type;  // "int", "float", "str", "bool", "None", "dtype", ...
  std::string text;  // "3", "0.001", "bfloat16"; shortened where very long
};

struct TorchContents {
  std::string path;
  int64_t file_bytes = 0;
  std::vector<TorchStorage> storages;
  // In the order of the file's dict.  No name twice.
  std::vector<TorchTensor> tensors;
  // The first of them.
  std::vector<TorchValue> values;
  int64_t values_left_out = 0;
  // Written before PyTorch 1.6: no archive, no checksums.
  bool legacy = false;
  // Of the archive: the name under which torch.save wrote the file, without its extension, or "archive".
  std::string archive_name;
  // What reading all tensors costs, as UnfoldedBytes counts it.
  int64_t unfolded_bytes = 0;
};

// Has every storage that holds anything a checksum?
inline bool HasChecksums(const TorchContents& contents) {
  for (const TorchStorage& storage : contents.storages) {
    if (storage.bytes > 0 && storage.crc32 == 0) {
      return false;
    }
  }
  return true;
}

}  // namespace waypoint

#endif  // CHECKPOINT_CONTAINER_TORCH_ZIP_TORCH_CONTENTS_H_
