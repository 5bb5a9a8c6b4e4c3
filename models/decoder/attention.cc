#include "models/decoder/attention.h"

#include <cmath>
#include <limits>
#include <map>
#include <string>

#include "ATen/ATen.h"
#include "models/decoder/normalization.h"
#include "models/decoder/parameters.h"

namespace waypoint::models {
namespace {

// The bias of the fused projection, filled with zeros where only one of the two has one.
at::Tensor KeyValueBias(const Attention& attention, const ParameterView& parameters) {
  const at::Tensor bias = parameters.Get("key_value.bias");
  if (KeyHasBias(attention) == ValueHasBias(attention)) {
    return bias;
  }
  const at::Tensor zeros = at::zeros(bias.sizes(), bias.options());
  return KeyHasBias(attention) ? at::cat({bias, zeros}) : at::cat({zeros, bias});
}

// All heads share the normalisation's parameters, and each rank sees the gradient of its own heads only.
at::Tensor NormalizeHeads(const at::Tensor& x, const Normalization& normalization, const ParameterView& parameters,
                          TensorRanks* ranks) {
  const std::map<std::string, at::Tensor> copies = {{"weight", CopyToRanks(parameters.Get("weight"), ranks)},
                                                    {"bias", CopyToRanks(parameters.Get("bias"), ranks)}};
  return Normalize(x, normalization, ParameterView(copies, ""));
}

}  // namespace

at::Tensor HiddenPositions(const Attention& attention, int64_t length, const at::Device& device) {
  if (!attention.causal()) {
    return at::Tensor();
  }
  const at::Tensor positions = at::arange(length, at::TensorOptions(at::kLong).device(device));
  const at::Tensor distance = positions.unsqueeze(1) - positions.unsqueeze(0);
  if (!attention.has_window_size()) {
    return distance < 0;
  }
  return at::logical_or(distance < 0, distance >= attention.window_size());
}

at::Tensor Attend(const at::Tensor& input, const Attention& attention, const ParameterView& parameters,
                  const RotaryTable& rotary, const at::Tensor& hidden_positions, TensorRanks* ranks) {
  const at::Tensor x = CopyToRanks(input, ranks);
  const int64_t batch = x.size(0);
  const int64_t length = x.size(1);
  const int64_t head_size = attention.head_size();
  const int64_t groups = attention.head_groups();
  const int64_t heads_per_group = attention.heads() / groups;

  // [batch, heads, length, head_size]
  at::Tensor query = at::linear(x, parameters.Get("query.weight"), parameters.Get("query.bias"))
                         .view({batch, length, attention.heads(), head_size});
  if (attention.has_query_norm()) {
    query = NormalizeHeads(query, attention.query_norm(), parameters.Below("query_norm."), ranks);
  }
  query = ApplyRotary(query.transpose(1, 2), rotary);

  // Keys, then values: [batch, length, groups, head_size] each.
  const at::Tensor key_value = at::linear(x, parameters.Get("key_value.weight"), KeyValueBias(attention, parameters))
                                   .view({batch, length, 2 * groups, head_size});
  at::Tensor key = key_value.narrow(2, 0, groups);
  at::Tensor value = key_value.narrow(2, groups, groups);
  if (attention.has_key_norm()) {
    key = NormalizeHeads(key, attention.key_norm(), parameters.Below("key_norm."), ranks);
  }
  if (attention.has_value_norm()) {
    value = NormalizeHeads(value, attention.value_norm(), parameters.Below("value_norm."), ranks);
  }
  key = ApplyRotary(key.transpose(1, 2), rotary);
  value = value.transpose(1, 2);

  // The query heads of a group stand below each other, so that keys and values need not be repeated.
  const at::Tensor rows = query.reshape({batch, groups, heads_per_group * length, head_size});
  const double scale = std::pow(static_cast<double>(head_size), -attention.softmax_scale_power());
  at::Tensor scores =
      (at::matmul(rows, key.transpose(2, 3)) * scale).view({batch, groups, heads_per_group, length, length});
  if (hidden_positions.defined()) {
    scores = at::masked_fill(scores, hidden_positions, -std::numeric_limits<double>::infinity());
  }
  const at::ScalarType softmax_dtype = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor weights = at::softmax(scores, -1, softmax_dtype)
                                 .to(x.scalar_type())
                                 .view({batch, groups, heads_per_group * length, length});
  const at::Tensor mixed = at::matmul(weights, value)
                               .view({batch, attention.heads(), length, head_size})
                               .transpose(1, 2)
                               .reshape({batch, length, attention.heads() * head_size});
  return RowParallelLinear(mixed, parameters.Get("dense.weight"), parameters.Get("dense.bias"), ranks);
}

}  // namespace waypoint::models
