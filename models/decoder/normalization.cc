#include "models/decoder/normalization.h"

#include "ATen/ATen.h"

namespace waypoint::models {
namespace {

at::Tensor RmsNormalize(const at::Tensor& x, const Normalization& normalization, const at::Tensor& weight) {
  const at::ScalarType dtype = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor wide = x.to(dtype);
  const at::Tensor variance = at::mean(at::square(wide), /*dim=*/{-1}, /*keepdim=*/true);
  const at::Tensor normalized = wide * at::rsqrt(variance + normalization.epsilon());
  if (!weight.defined()) {
    return normalized.to(x.scalar_type());
  }
  if (normalization.zero_centered()) {
    return (normalized * (weight.to(dtype) + 1.0)).to(x.scalar_type());
  }
  return weight * normalized.to(x.scalar_type());
}

}  // namespace

at::Tensor Normalize(const at::Tensor& x, const Normalization& normalization, const ParameterView& parameters) {
  switch (normalization.kind()) {
    case Normalization::NONE:
      return x;
    case Normalization::LAYER_NORM: {
      const at::Tensor weight = parameters.Get("weight");
      return at::layer_norm(x, {x.size(-1)}, normalization.zero_centered() ? weight + 1.0 : weight,
                            parameters.Get("bias"), normalization.epsilon());
    }
    case Normalization::FIXED_RMS_NORM:
      return RmsNormalize(x, normalization, at::Tensor());
    default:
      return RmsNormalize(x, normalization, parameters.Get("weight"));
  }
}

}  // namespace waypoint::models
