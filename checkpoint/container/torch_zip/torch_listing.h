#ifndef CHECKPOINT_CONTAINER_TORCH_ZIP_TORCH_LISTING_H_
#define CHECKPOINT_CONTAINER_TORCH_ZIP_TORCH_LISTING_H_

// From what a pickle describes to named tensors that lie inside their storages.  Thread-safe.

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "checkpoint/base/limits.h"
#include "checkpoint/container/torch_zip/pickle_tree.h"
#include "checkpoint/container/torch_zip/torch_contents.h"

namespace waypoint {

// Bytes that a storage must have.  E_STORAGE for a size below zero, or beyond 63 bits.
absl::StatusOr<int64_t> StorageBytes(const PickleStorage& storage);

// Fills tensors and values of `contents`, whose size and storages (those of `tree` in the same order) are set.  The
// root is a dict; dicts, lists and tuples in it are flattened, their keys and positions joined with dots: {"model":
// {"w": [t]}} is "model.w.0".  `what` begins every message.
//
// Errors: E_SCHEMA (root is no dict, a name that holds NUL), E_UNSUPPORTED (a storage without tensor), E_DUP_KEY,
// E_LIMIT (torch_tensors, torch_listing_bytes, tensor_name_bytes, pickle_values for what repeats, expand_bytes,
// expand_file_bytes), E_OVERFLOW (a shape), E_STORAGE (elements outside of the storage, negative numbers).
absl::Status ListTensors(const PickleTree& tree, absl::string_view what, const Limits& limits, TorchContents* contents);

}  // namespace waypoint

#endif  // CHECKPOINT_CONTAINER_TORCH_ZIP_TORCH_LISTING_H_
