#ifndef CHECKPOINT_ASYNC_MEMORY_STATE_H_
#define CHECKPOINT_ASYNC_MEMORY_STATE_H_

// A job's tensors as names and places in memory: what a snapshot is taken of.  Knows no tensor library.

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoint/base/dtype.h"
#include "checkpoint/tensor/box.h"
#include "checkpoint/tensor/tensor_source.h"

namespace waypoint {

// A part of a tensor; several of one name, shape and type are parts that do not overlap.
struct MemoryTensor {
  std::string name;
  DType dtype = DType::kInvalid;
  Dims shape;  // global
  Box box;     // the part that is here
  // Where it lies, when the CPU can address it: memory.sizes == box.sizes, strides of 0 or more.
  StridedSpan memory = {};
  // Otherwise: copies the part to row-major host memory.  Called from any thread, for one tensor at a time per thread.
  std::function<absl::Status(const StridedSpan& to)> fetch = {};
  // Keeps the memory alive.
  std::shared_ptr<const void> owner = {};

  // Of the part that is here.
  int64_t num_bytes() const { return box.num_elements() * DTypeBytes(dtype); }
};

using MemoryState = std::vector<MemoryTensor>;

// Checks what the comments above demand.  E_REQUEST, E_DTYPE for elements of less than a byte, and as Manifest::Add.
absl::StatusOr<Manifest> ManifestOf(const MemoryState& state);

// The first byte of a span, and one past its last.
struct AddressRange {
  const char* begin = nullptr;
  const char* end = nullptr;
};
AddressRange AddressesOf(const StridedSpan& span);

// Reads the state as it is at the time of Read; all of it must have memory.  With `copy`, that function copies instead
// of CopyStrided.  Thread-safe if `copy` is.
using CopyFunction = std::function<absl::Status(const StridedSpan& from, const StridedSpan& to)>;
absl::StatusOr<std::unique_ptr<TensorSource>> NewMemoryStateSource(MemoryState state, CopyFunction copy = nullptr);

}  // namespace waypoint

#endif  // CHECKPOINT_ASYNC_MEMORY_STATE_H_
