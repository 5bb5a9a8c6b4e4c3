#ifndef CHECKPOINT_CONTAINER_TORCH_ZIP_LEGACY_FILE_H_
#define CHECKPOINT_CONTAINER_TORCH_ZIP_LEGACY_FILE_H_

// Files of torch.save before PyTorch 1.6, or with _use_new_zipfile_serialization=False.
//
//   pickle of 0x1950a86a20f9469cfc6c | pickle of 1001 | pickle of a dict about the machine | pickle of the object |
//   pickle of the list of storage keys | for each key: number of elements (int64, little), elements
//
// There is no checksum.  Source: torch/serialization.py, `_legacy_save`.  Thread-safe.

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "checkpoint/base/limits.h"
#include "checkpoint/container/torch_zip/torch_contents.h"
#include "checkpoint/storage/file_system.h"

namespace waypoint {

// From the first bytes of a file (64 at least, or all).
bool IsLegacyFile(absl::string_view start);

// Errors: those of RunPickle and ListTensors, E_UNSUPPORTED (another version, big-endian), E_STORAGE (keys and storages
// do not match, or sizes), E_TRUNCATED, E_TRAILING.  Pickles that do not end within pickle_bytes are E_PICKLE.
absl::StatusOr<TorchContents> ReadLegacyFile(const ReadableFile& file, const Limits& limits);

}  // namespace waypoint

#endif  // CHECKPOINT_CONTAINER_TORCH_ZIP_LEGACY_FILE_H_
