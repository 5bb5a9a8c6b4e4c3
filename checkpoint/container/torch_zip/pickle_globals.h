#ifndef CHECKPOINT_CONTAINER_TORCH_ZIP_PICKLE_GLOBALS_H_
#define CHECKPOINT_CONTAINER_TORCH_ZIP_PICKLE_GLOBALS_H_

// The names that a pickle may use: a fixed table of inert constructors.  Nothing is looked up anywhere else, nothing
// can be added at run time, and no name makes code run.  Thread-safe.

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "checkpoint/base/dtype.h"

namespace waypoint {

enum class PickleMeaning : uint8_t {
  kRebuildTensor,         // torch._utils._rebuild_tensor_v2
  kRebuildTensorOfDType,  // torch._utils._rebuild_tensor_v3
  kRebuildParameter,      // torch._utils._rebuild_parameter
  kOrderedDict,
  kSize,     // torch.Size: a tuple
  kSet,      // set and frozenset
  kBytes,    // bytes, bytearray and _codecs.encode, which protocol 2 writes them with
  kInert,    // makes a value that is carried along unread: torch.device, complex
  kStorage,  // a storage type, only in a persistent id
  kDType,    // a torch.dtype
};

struct PickleGlobal {
  absl::string_view module;
  absl::string_view name;
  PickleMeaning meaning = PickleMeaning::kInert;
  // Of storages and dtypes; kInvalid where tensors cannot have it here, or (an untyped storage) bytes are meant.
  DType dtype = DType::kInvalid;
};

// E_CODE for a name outside the table, E_UNSUPPORTED for known names of tensors that are not plain (sparse, quantised,
// meta), E_DTYPE for storages of quantised elements.  The result is a row of the table.
absl::StatusOr<const PickleGlobal*> FindPickleGlobal(absl::string_view module, absl::string_view name);

// The name in module "torch" of the storage type with such elements; empty where torch has none.
absl::string_view TorchStorageName(DType dtype);

// The name in module "torch" of the dtype; empty where the table has none.
absl::string_view TorchDTypeName(DType dtype);

}  // namespace waypoint

#endif  // CHECKPOINT_CONTAINER_TORCH_ZIP_PICKLE_GLOBALS_H_
