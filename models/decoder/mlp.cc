#include "models/decoder/mlp.h"

#include <tuple>
#include <vector>

#include "ATen/ATen.h"
#include "models/decoder/normalization.h"

namespace waypoint::models {
namespace {

at::Tensor Activate(const at::Tensor& x, Activation activation) {
  switch (activation) {
    case SILU:
      return at::silu(x);
    case GELU:
      return at::gelu(x);
    case GELU_TANH:
      return at::gelu(x, "tanh");
    case RELU:
      return at::relu(x);
    case SQUARED_RELU:
      return at::square(at::relu(x));
    case SIGMOID:
      return at::sigmoid(x);
    default:
      return x;
  }
}

at::Tensor RunLinears(const at::Tensor& x, const DenseMlp& mlp, const at::Tensor& weight_1, const at::Tensor& bias_1,
                      const at::Tensor& weight_2, const at::Tensor& bias_2, TensorRanks* ranks) {
  at::Tensor inner = at::linear(CopyToRanks(x, ranks), weight_1, bias_1);
  if (mlp.gated()) {
    const int64_t size = mlp.intermediate_size();
    inner = Activate(inner.narrow(-1, 0, size), mlp.activation()) * inner.narrow(-1, size, size);
  } else {
    inner = Activate(inner, mlp.activation());
  }
  return RowParallelLinear(inner, weight_2, bias_2, ranks);
}

at::Tensor RunDense(const at::Tensor& x, const DenseMlp& mlp, const ParameterView& parameters, TensorRanks* ranks) {
  const at::Tensor input = mlp.has_pre_norm() ? Normalize(x, mlp.pre_norm(), parameters.Below("pre_norm.")) : x;
  const at::Tensor output = RunLinears(input, mlp, parameters.Get("layer_1.weight"), parameters.Get("layer_1.bias"),
                                       parameters.Get("layer_2.weight"), parameters.Get("layer_2.bias"), ranks);
  return mlp.has_post_norm() ? Normalize(output, mlp.post_norm(), parameters.Below("post_norm.")) : output;
}

struct Routes {
  at::Tensor experts;  // int64 [tokens, experts_per_token]
  at::Tensor weights;  // [tokens, experts_per_token]
};

Routes Route(const at::Tensor& tokens, const MoeMlp& moe, const ParameterView& parameters) {
  const at::Tensor logits = at::linear(tokens, parameters.Get("router.weight"));
  const at::ScalarType dtype = tokens.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor scores =
      moe.routing() == MoeMlp::SIGMOID_TOP_K ? at::sigmoid(logits.to(dtype)) : at::softmax(logits, -1, dtype);
  auto [weights, experts] = at::topk(scores, moe.experts_per_token());
  if (moe.routing() == MoeMlp::SOFTMAX_TOP_K_NORMALIZED) {
    weights = weights / at::sum(weights, /*dim=*/{-1}, /*keepdim=*/true);
  }
  return {experts, weights.to(tokens.scalar_type())};
}

// One tensor for each expert; one undefined tensor for each when there is none.
std::vector<at::Tensor> PerExpert(const at::Tensor& stacked, int64_t experts) {
  if (!stacked.defined()) {
    return std::vector<at::Tensor>(static_cast<size_t>(experts));
  }
  // Not select(): its gradient would be a tensor of all experts for each of them.
  return at::unbind(stacked);
}

at::Tensor RunMoe(const at::Tensor& x, const MoeMlp& moe, const ParameterView& parameters) {
  const at::Tensor tokens = x.reshape({-1, x.size(-1)});
  const Routes routes = Route(tokens, moe, parameters);
  const auto weight_1 = PerExpert(parameters.Get("layer_1.weight"), moe.experts());
  const auto bias_1 = PerExpert(parameters.Get("layer_1.bias"), moe.experts());
  const auto weight_2 = PerExpert(parameters.Get("layer_2.weight"), moe.experts());
  const auto bias_2 = PerExpert(parameters.Get("layer_2.bias"), moe.experts());

  const at::Tensor output = at::zeros_like(tokens);
  for (int64_t e = 0; e < moe.experts(); ++e) {
    // Row: token; column: which of its choices.
    const at::Tensor uses = at::nonzero(routes.experts == e);
    if (uses.size(0) == 0) {
      continue;
    }
    const at::Tensor rows = uses.select(1, 0);
    const at::Tensor choices = uses.select(1, 1);
    const at::Tensor result = RunLinears(at::index_select(tokens, 0, rows), moe.expert(), weight_1[e], bias_1[e],
                                         weight_2[e], bias_2[e], nullptr);
    const at::Tensor weights = routes.weights.index({rows, choices}).unsqueeze(1);
    output.index_add_(0, rows, result * weights);
  }
  return output.view(x.sizes());
}

}  // namespace

at::Tensor RunMlp(const at::Tensor& x, const Mlp& mlp, const ParameterView& parameters, TensorRanks* ranks) {
  return mlp.has_dense() ? RunDense(x, mlp.dense(), parameters, ranks) : RunMoe(x, mlp.moe(), parameters);
}

}  // namespace waypoint::models
