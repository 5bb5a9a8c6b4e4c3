#ifndef CHECKPOINT_CONTAINER_TORCH_ZIP_PICKLE_WRITER_H_
#define CHECKPOINT_CONTAINER_TORCH_ZIP_PICKLE_WRITER_H_

// The pickle of a dict of tensors, as torch.load(weights_only=True) takes it in every release that has the option.
//
// Protocol 2, a plain dict at the root, nothing but tensors in it unless the caller asks for more, row-major, each
// whole storage one tensor's.  Element types that have no storage class of their own (float8, wide unsigned integers)
// are described by _rebuild_tensor_v3, which PyTorch reads since 2.1.  Names are in pickle_globals.h. Sources: Python,
// Lib/pickle.py; torch/_utils.py; torch/_weights_only_unpickler.py.  Thread-safe.

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "checkpoint/base/dtype.h"
#include "checkpoint/tensor/box.h"

namespace waypoint {

struct PickledTensorEntry {
  absl::string_view key;
  DType dtype = DType::kInvalid;
  absl::Span<const int64_t> shape;
  // "data/<storage>".  Entries with the same one share it when loaded.
  int64_t storage = 0;
};

// The dict around the tensors, as trainers write it: {"model": OrderedDict of tensors, "model_key": "model", "fs2":
// True}.
struct PickledWrapper {
  // Empty: there is none, the tensors are the root.
  std::string key;
  // Beside that key, in this order.
  std::vector<std::pair<std::string, std::string>> texts;
  std::vector<std::string> flags;  // keys whose value is True
};

// Errors: E_UNSUPPORTED for an element type that PyTorch cannot store, naming the entry; E_DUP_KEY; E_UTF8; E_REQUEST
// for values beside tensors that have no key.
absl::StatusOr<std::string> PickleTensorDict(const std::vector<PickledTensorEntry>& entries,
                                             const PickledWrapper& wrapper = {});

}  // namespace waypoint

#endif  // CHECKPOINT_CONTAINER_TORCH_ZIP_PICKLE_WRITER_H_
