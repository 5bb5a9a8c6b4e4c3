#include "checkpoint/torch/live_memory.h"

#include <cstring>
#include <utility>
#include <vector>

#include "ATen/ATen.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "c10/core/GradMode.h"
#include "checkpoint/base/aligned_buffer.h"
#include "checkpoint/base/catch_allocation.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"

namespace waypoint {
namespace {

absl::Status Fetch(const at::Tensor& tensor, const StridedSpan& to) {
  try {
    c10::NoGradGuard no_grad;
    at::from_blob(to.data, tensor.sizes(), at::TensorOptions().dtype(tensor.scalar_type())).copy_(tensor);
    return absl::OkStatus();
  } catch (const std::exception& e) {
    return ThrownError(e, ErrorKind::kUnknown, "libtorch");
  }
}

// Each CPU storage once.
std::vector<at::Storage> StoragesOf(const LiveState& state) {
  std::vector<at::Storage> storages;
  absl::flat_hash_set<const c10::StorageImpl*> seen;
  for (const LiveTensor& live : state) {
    if (live.tensor.device().is_cpu() && live.tensor.layout() == at::kStrided &&
        seen.insert(live.tensor.storage().unsafeGetStorageImpl()).second) {
      storages.push_back(live.tensor.storage());
    }
  }
  return storages;
}

void DropArena(void* context) { delete static_cast<std::shared_ptr<SnapshotArena>*>(context); }

}  // namespace

absl::StatusOr<MemoryState> LiveMemory(const LiveState& state) {
  MemoryState memory;
  for (const LiveTensor& live : state) {
    const auto dtype = DTypeFromTorch(live.tensor.scalar_type());
    if (!dtype.ok()) {
      return Annotate(dtype.status(), absl::StrCat("tensor \"", live.name, "\""));
    }
    if (live.tensor.layout() != at::kStrided) {
      return MakeError(ErrorKind::kRequest, absl::StrCat("tensor \"", live.name, "\" is not dense; make it so first"));
    }
    const Dims local(live.tensor.sizes().begin(), live.tensor.sizes().end());
    MemoryTensor tensor;
    tensor.name = live.name;
    tensor.dtype = *dtype;
    tensor.shape = live.global_shape.empty() ? local : live.global_shape;
    tensor.box = live.global_shape.empty() ? Box::Whole(local) : live.box;
    if (tensor.box.sizes != local) {
      return MakeError(ErrorKind::kRequest, absl::StrCat("tensor \"", live.name, "\": box ", tensor.box.ToString(),
                                                         " does not describe a tensor of shape ", ShapeString(local)));
    }
    const auto kept = std::make_shared<const at::Tensor>(live.tensor.detach());
    tensor.owner = kept;
    // The memory of a conjugate or negative view holds other values than the tensor.
    if (kept->device().is_cpu() && !kept->is_conj() && !kept->is_neg()) {
      tensor.memory.data = static_cast<char*>(kept->data_ptr());
      tensor.memory.element_bytes = DTypeBytes(*dtype);
      tensor.memory.sizes = local;
      for (const int64_t stride : kept->strides()) {
        tensor.memory.strides.push_back(stride * tensor.memory.element_bytes);
      }
    } else {
      tensor.fetch = [kept](const StridedSpan& to) { return Fetch(*kept, to); };
    }
    memory.push_back(std::move(tensor));
  }
  WAYPOINT_RETURN_IF_ERROR(ManifestOf(memory).status());
  return memory;
}

int64_t ArenaBytesFor(const LiveState& state) {
  int64_t bytes = 0;
  for (const at::Storage& storage : StoragesOf(state)) {
    bytes = AlignUp(bytes, SnapshotArena::kAlignment) + static_cast<int64_t>(storage.nbytes());
  }
  return bytes;
}

absl::Status MoveToArena(const LiveState& state, const std::shared_ptr<SnapshotArena>& arena) {
  for (const at::Storage& storage : StoragesOf(state)) {
    const size_t bytes = storage.nbytes();
    const char* const old = static_cast<const char*>(storage.data());
    if (bytes == 0 || arena->Contains({old, old + bytes})) {
      continue;
    }
    WAYPOINT_ASSIGN_OR_RETURN(char* const data, arena->Allocate(static_cast<int64_t>(bytes)));
    std::memcpy(data, old, bytes);
    // The arena lives as long as the last storage in it.
    storage.set_data_ptr(
        c10::DataPtr(data, new std::shared_ptr<SnapshotArena>(arena), DropArena, c10::Device(c10::kCPU)));
  }
  return absl::OkStatus();
}

}  // namespace waypoint
