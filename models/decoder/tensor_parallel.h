#ifndef MODELS_DECODER_TENSOR_PARALLEL_H_
#define MODELS_DECODER_TENSOR_PARALLEL_H_

// What tensor ranks must tell each other in the forward and backward pass, as operations that autograd knows: the
// conjugate pair f and g of Megatron-LM (arXiv 1909.08053, section 3).
//
//   at::Tensor inner = at::linear(CopyToRanks(x, ranks), column_parallel_weight);
//   x = SumOverRanks(at::linear(Activate(inner), row_parallel_weight), ranks);
//
// `ranks` is null for a model that one rank holds; x then comes back as it is.  All ranks build the same graph, so that
// the sums of the backward pass meet in the same order.  One thread for each group.

#include <cstdint>

#include "ATen/core/Tensor.h"

namespace waypoint::models {

// Ranks that each hold a part of every layer.
class TensorRanks {
 public:
  virtual ~TensorRanks() = default;
  // Element by element over the ranks, in place, the same bits on all.  They throw std::exception when another rank is
  // gone: they are called from within the backward pass, which knows no other way out.
  virtual void Sum(const at::Tensor& tensor) = 0;
  virtual void Max(const at::Tensor& tensor) = 0;
};

// x, which all ranks have, for each to compute something else from; the gradients of all are summed.
at::Tensor CopyToRanks(const at::Tensor& x, TensorRanks* ranks);

// The sum of what the ranks have, on all of them; the gradient goes to each.
at::Tensor SumOverRanks(const at::Tensor& x, TensorRanks* ranks);

// Mean negative log-likelihood of `targets` (int64 [tokens]) under logits [tokens, vocabulary of this rank], which
// begin at id `first_id`.  In float32.
at::Tensor CrossEntropy(const at::Tensor& logits, const at::Tensor& targets, int64_t first_id, TensorRanks* ranks);

// Rows of a table [vocabulary of this rank, H], which begin at `first_id`; ids are int64 of any shape.
at::Tensor Embedding(const at::Tensor& table, const at::Tensor& ids, int64_t first_id, TensorRanks* ranks);

// at::linear with the columns of `weight` on different ranks, and all of them knowing the bias (may be undefined).
at::Tensor RowParallelLinear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, TensorRanks* ranks);

}  // namespace waypoint::models

#endif  // MODELS_DECODER_TENSOR_PARALLEL_H_
