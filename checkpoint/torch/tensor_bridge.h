#ifndef CHECKPOINT_TORCH_TENSOR_BRIDGE_H_
#define CHECKPOINT_TORCH_TENSOR_BRIDGE_H_

// Live libtorch tensors as a TensorSource (to save them) and as a TensorSink (to fill them).  The only part of
// checkpoint/ that names libtorch, and the only file that knows how its dtypes map to ours.
//
//   LiveState state = {{"decoder.0.norm_1.weight", weight}, ...};
//   WAYPOINT_ASSIGN_OR_RETURN(auto source, NewLiveSource(state));
//
// The tensors are shared, not copied: they must not change while a transfer runs.  Contiguous CPU tensors are filled
// in place; all others (strided, on a device) through at::Tensor::copy_.  Thread-safe.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/status/statusor.h"
#include "checkpoint/base/dtype.h"
#include "checkpoint/tensor/tensor_sink.h"
#include "checkpoint/tensor/tensor_source.h"

namespace waypoint {

// One tensor of the live state: all of it, or a box of the global tensor.  A rank that holds several boxes of a tensor has
// several of the same name, shape and type; the boxes do not overlap.
struct LiveTensor {
  std::string name;
  at::Tensor tensor;
  // Unset: the tensor is whole.
  Dims global_shape = {};
  Box box = {};
};

using LiveState = std::vector<LiveTensor>;

// Both: E_REQUEST for tensors that are not dense or whose box does not describe them, E_DUP_KEY, E_DTYPE.
absl::StatusOr<std::unique_ptr<TensorSource>> NewLiveSource(const LiveState& state);
// block_bytes: neighbours are filled together up to this size, large tensors in pieces of it.
absl::StatusOr<std::unique_ptr<TensorSink>> NewLiveSink(const LiveState& state, int64_t block_bytes = int64_t{8} << 20);

// E_DTYPE for element types that the other side lacks.
absl::StatusOr<DType> DTypeFromTorch(at::ScalarType type);
absl::StatusOr<at::ScalarType> DTypeToTorch(DType dtype);

}  // namespace waypoint

#endif  // CHECKPOINT_TORCH_TENSOR_BRIDGE_H_
