#include "models/decoder/rotary.h"

#include <algorithm>
#include <cmath>

#include "ATen/ATen.h"

namespace waypoint::models {
namespace {

constexpr double kPi = 3.14159265358979323846;

at::Tensor ChannelExponents(int64_t head_size) {
  return at::arange(0, head_size, 2, at::kLong).to(at::kFloat) / static_cast<double>(head_size);
}

at::Tensor DefaultInverse(double theta, int64_t head_size) {
  return at::reciprocal(at::pow(at::Scalar(theta), ChannelExponents(head_size)));
}

at::Tensor Llama3Inverse(const Llama3Rotary& llama3, const at::Tensor& inverse) {
  const double length = static_cast<double>(llama3.original_context_length());
  const double low = llama3.low_frequency_factor();
  const double high = llama3.high_frequency_factor();
  const at::Tensor wavelength = at::mul(at::reciprocal(inverse), 2 * kPi);

  // Long waves are stretched, short ones kept, those between interpolated.
  const at::Tensor is_long = wavelength > length / low;
  const at::Tensor is_between = at::logical_and(wavelength >= length / high, wavelength <= length / low);
  const at::Tensor stretched = at::where(is_long, inverse / llama3.scale_factor(), inverse);
  const at::Tensor smooth = (at::mul(at::reciprocal(wavelength), length) - low) / (high - low);
  const at::Tensor mixed = (at::rsub(smooth, 1)) * stretched / llama3.scale_factor() + smooth * stretched;
  return at::where(is_between, mixed, stretched);
}

double YarnScale(double scale, double mscale) { return scale <= 1 ? 1.0 : 0.1 * mscale * std::log(scale) + 1.0; }

double YarnAttentionFactor(const YarnRotary& yarn) {
  if (yarn.has_attention_factor()) {
    return yarn.attention_factor();
  }
  // As transformers: zero counts as not given.
  if (yarn.mscale() != 0 && yarn.mscale_all_dim() != 0) {
    return YarnScale(yarn.scale_factor(), yarn.mscale()) / YarnScale(yarn.scale_factor(), yarn.mscale_all_dim());
  }
  return YarnScale(yarn.scale_factor(), 1.0);
}

at::Tensor YarnInverse(const YarnRotary& yarn, double theta, int64_t head_size) {
  // The channel that turns `rotations` times over the original context.
  const auto channel = [&](double rotations) {
    return static_cast<double>(head_size) *
           std::log(static_cast<double>(yarn.original_context_length()) / (rotations * 2 * kPi)) /
           (2 * std::log(theta));
  };
  double low = channel(yarn.beta_fast());
  double high = channel(yarn.beta_slow());
  if (yarn.truncate()) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(head_size - 1));
  if (low == high) {
    high += 0.001;
  }
  const at::Tensor ramp = at::clamp((at::arange(head_size / 2, at::kFloat) - low) / (high - low), 0, 1);
  const at::Tensor keep = at::rsub(ramp, 1);
  const at::Tensor powers = at::pow(at::Scalar(theta), ChannelExponents(head_size));
  const at::Tensor kept = at::reciprocal(powers);
  const at::Tensor stretched = at::reciprocal(powers * yarn.scale_factor());
  return stretched * at::rsub(keep, 1) + kept * keep;
}

double DynamicTheta(const DynamicRotary& dynamic, double theta, int64_t head_size, int64_t length) {
  const double original = static_cast<double>(dynamic.original_context_length());
  const double longest = std::max(static_cast<double>(length), original);
  const double scale = dynamic.scale_factor();
  const double size = static_cast<double>(head_size);
  return theta * std::pow(scale * longest / original - (scale - 1), size / (size - 2));
}

}  // namespace

RotaryFrequencies ComputeFrequencies(const Rotary& rotary, int64_t head_size, int64_t length) {
  switch (rotary.kind_case()) {
    case Rotary::kLlama3:
      return {Llama3Inverse(rotary.llama3(), DefaultInverse(rotary.theta(), head_size)), 1};
    case Rotary::kYarn:
      return {YarnInverse(rotary.yarn(), rotary.theta(), head_size), YarnAttentionFactor(rotary.yarn())};
    case Rotary::kLinear:
      return {DefaultInverse(rotary.theta(), head_size) / rotary.linear().scale_factor(), 1};
    case Rotary::kDynamic:
      return {DefaultInverse(DynamicTheta(rotary.dynamic(), rotary.theta(), head_size, length), head_size), 1};
    default:
      return {DefaultInverse(rotary.theta(), head_size), 1};
  }
}

RotaryTable ComputeTable(const Rotary& rotary, int64_t head_size, int64_t length, const at::TensorOptions& options) {
  if (rotary.has_none()) {
    return {};
  }
  const RotaryFrequencies frequencies = ComputeFrequencies(rotary, head_size, length);
  const at::Tensor angles = at::outer(at::arange(length, at::kFloat), frequencies.inverse);
  const at::Tensor both = at::cat({angles, angles}, -1);
  return {(at::cos(both) * frequencies.attention_factor).to(options),
          (at::sin(both) * frequencies.attention_factor).to(options)};
}

at::Tensor ApplyRotary(const at::Tensor& x, const RotaryTable& table) {
  if (!table.cos.defined()) {
    return x;
  }
  const int64_t half = x.size(-1) / 2;
  const at::Tensor turned = at::cat({at::neg(x.narrow(-1, half, half)), x.narrow(-1, 0, half)}, -1);
  return x * table.cos + turned * table.sin;
}

}  // namespace waypoint::models
