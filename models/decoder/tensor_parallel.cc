#include "models/decoder/tensor_parallel.h"

#include <torch/csrc/autograd/custom_function.h>

#include "ATen/ATen.h"
#include "c10/core/GradMode.h"

namespace waypoint::models {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Autograd may still hold `tensor` for something else.
at::Tensor SumOf(const at::Tensor& tensor, TensorRanks* ranks) {
  const c10::NoGradGuard no_grad;
  const at::Tensor sum = tensor.clone(at::MemoryFormat::Contiguous);
  ranks->Sum(sum);
  return sum;
}

class CopyFunction : public torch::autograd::Function<CopyFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, TensorRanks* ranks) {
    context->saved_data["ranks"] = reinterpret_cast<int64_t>(ranks);
    return x.view_as(x);
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    auto* const ranks = reinterpret_cast<TensorRanks*>(context->saved_data["ranks"].toInt());
    return {SumOf(gradients[0], ranks), at::Tensor()};
  }
};

class SumFunction : public torch::autograd::Function<SumFunction> {
 public:
  static at::Tensor forward(AutogradContext*, const at::Tensor& x, TensorRanks* ranks) { return SumOf(x, ranks); }
  static variable_list backward(AutogradContext*, variable_list gradients) { return {gradients[0], at::Tensor()}; }
};

// Ids as rows of this rank's table, and which of them it does not have.
struct LocalIds {
  at::Tensor rows;
  at::Tensor elsewhere;
};

LocalIds Localize(const at::Tensor& ids, int64_t first_id, int64_t rows) {
  const at::Tensor local = ids - first_id;
  const at::Tensor elsewhere = at::logical_or(local < 0, local >= rows);
  return {at::masked_fill(local, elsewhere, 0), elsewhere};
}

}  // namespace

at::Tensor CopyToRanks(const at::Tensor& x, TensorRanks* ranks) {
  return ranks == nullptr || !x.defined() ? x : CopyFunction::apply(x, ranks);
}

at::Tensor SumOverRanks(const at::Tensor& x, TensorRanks* ranks) {
  return ranks == nullptr ? x : SumFunction::apply(x, ranks);
}

at::Tensor CrossEntropy(const at::Tensor& logits, const at::Tensor& targets, int64_t first_id, TensorRanks* ranks) {
  // In float32 whatever the model's dtype: a sum over the vocabulary loses too much otherwise.
  const at::Tensor wide = logits.to(at::kFloat);
  if (ranks == nullptr) {
    return at::cross_entropy_loss(wide, targets);
  }
  // The largest logit only keeps exp in range: the loss does not depend on it, so no gradient flows through it.
  const at::Tensor largest = at::amax(wide.detach(), /*dim=*/{1});
  ranks->Max(largest);
  const at::Tensor shifted = wide - largest.unsqueeze(1);
  const at::Tensor sum = SumOverRanks(at::sum(at::exp(shifted), /*dim=*/{1}), ranks);
  const LocalIds ids = Localize(targets, first_id, logits.size(1));
  const at::Tensor mine = at::masked_fill(at::gather(shifted, 1, ids.rows.unsqueeze(1)).squeeze(1), ids.elsewhere, 0);
  return at::mean(at::log(sum) - SumOverRanks(mine, ranks));
}

at::Tensor Embedding(const at::Tensor& table, const at::Tensor& ids, int64_t first_id, TensorRanks* ranks) {
  if (ranks == nullptr) {
    return at::embedding(table, ids);
  }
  const LocalIds local = Localize(ids, first_id, table.size(0));
  return SumOverRanks(at::masked_fill(at::embedding(table, local.rows), local.elsewhere.unsqueeze(-1), 0), ranks);
}

at::Tensor RowParallelLinear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                             TensorRanks* ranks) {
  if (ranks == nullptr) {
    return at::linear(x, weight, bias);
  }
  const at::Tensor sum = SumOverRanks(at::linear(x, weight), ranks);
  return bias.defined() ? sum + bias : sum;
}

}  // namespace waypoint::models
