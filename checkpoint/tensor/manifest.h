#ifndef CHECKPOINT_TENSOR_MANIFEST_H_
#define CHECKPOINT_TENSOR_MANIFEST_H_

// Names, element types, shapes and boxes of a set of tensors: everything but the bytes.
// Thread-compatible: const methods may run concurrently.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "checkpoint/base/dtype.h"
#include "checkpoint/tensor/box.h"

namespace waypoint {

struct TensorMeta {
  // Full dotted name.  Optimizer state of parameter "p" is "p/exp_avg", "p/exp_avg_sq", "p/master".
  std::string name;
  DType dtype = DType::kInvalid;
  Dims shape;  // global shape
  // The regions that this holder has; empty means the whole tensor.  Disjoint.
  std::vector<Box> boxes;

  int64_t num_elements() const { return NumElements(shape); }
  // Only for metas that were checked with TensorBytes.
  int64_t num_bytes() const { return num_elements() * DTypeBits(dtype) / 8; }
};

class Manifest {
 public:
  Manifest() = default;

  // E_DUP_KEY when the name is there; E_OVERFLOW, E_SIZE_MISMATCH as TensorBytes.  The order of addition is kept.
  absl::Status Add(TensorMeta tensor);

  const std::vector<TensorMeta>& tensors() const { return tensors_; }
  int64_t size() const { return static_cast<int64_t>(tensors_.size()); }
  const TensorMeta& operator[](int64_t index) const { return tensors_[index]; }
  // -1 when there is no such tensor.
  int64_t Find(absl::string_view name) const;
  // Room for that many in all.
  void Reserve(int64_t tensors) { tensors_.reserve(tensors); }
  // Of the boxes that are held.
  int64_t total_bytes() const;

 private:
  std::vector<TensorMeta> tensors_;
  // Open addressing over places in tensors_, -1 for none: names are not held twice.
  size_t SlotOf(absl::string_view name) const;
  std::vector<int64_t> slots_;
};

// The element type of most of their bytes, the lower number of two that have as many; kInvalid of no tensors.
DType MainDType(const std::vector<TensorMeta>& tensors);

}  // namespace waypoint

#endif  // CHECKPOINT_TENSOR_MANIFEST_H_
