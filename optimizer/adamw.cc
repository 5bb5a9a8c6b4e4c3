#include "optimizer/adamw.h"

#include <cmath>

#include "ATen/ATen.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "c10/core/GradMode.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"

namespace waypoint {
namespace {

absl::Status CheckOptions(const AdamWOptions& options) {
  const auto refuse = [](absl::string_view name, double value, absl::string_view wanted) {
    return MakeError(ErrorKind::kRequest, absl::StrCat("AdamW's ", name, " is ", value, ", must be ", wanted));
  };
  if (!(options.beta1 >= 0 && options.beta1 < 1)) {
    return refuse("beta1", options.beta1, "at least 0 and below 1");
  }
  if (!(options.beta2 >= 0 && options.beta2 < 1)) {
    return refuse("beta2", options.beta2, "at least 0 and below 1");
  }
  if (!(std::isfinite(options.epsilon) && options.epsilon > 0)) {
    return refuse("epsilon", options.epsilon, "positive and finite");
  }
  if (!(std::isfinite(options.weight_decay) && options.weight_decay >= 0)) {
    return refuse("weight_decay", options.weight_decay, "finite and not negative");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<AdamW>> AdamW::Create(const NamedTensors& parameters, const AdamWOptions& options) {
  WAYPOINT_RETURN_IF_ERROR(CheckOptions(options));
  std::unique_ptr<AdamW> optimizer(new AdamW(options));
  const c10::NoGradGuard no_grad;
  for (const auto& [name, parameter] : parameters) {
    const at::ScalarType type = parameter.scalar_type();
    if (type != at::kFloat && type != at::kBFloat16 && type != at::kHalf) {
      return MakeError(ErrorKind::kRequest, absl::StrCat("parameter \"", name, "\" is ", c10::toString(type),
                                                         ", AdamW takes float32, bfloat16 and float16"));
    }
    if (!parameter.requires_grad()) {
      continue;
    }
    ParameterState state;
    state.name = name;
    state.parameter = parameter;
    const at::TensorOptions wide = at::TensorOptions(at::kFloat).device(parameter.device());
    state.exp_avg = at::zeros(parameter.sizes(), wide);
    state.exp_avg_sq = at::zeros(parameter.sizes(), wide);
    if (type != at::kFloat) {
      state.master = at::empty(parameter.sizes(), wide);
    }
    state.decay = options.decay_vectors || parameter.dim() >= 2;
    optimizer->states_.push_back(std::move(state));
  }
  optimizer->ResetMasters();
  return optimizer;
}

void AdamW::ResetMasters() {
  const c10::NoGradGuard no_grad;
  for (const ParameterState& state : states_) {
    if (state.master.defined()) {
      state.master.copy_(state.parameter);
    }
  }
}

void AdamW::ResetMaster(const std::string& parameter) {
  const c10::NoGradGuard no_grad;
  for (const ParameterState& state : states_) {
    if (state.name == parameter && state.master.defined()) {
      state.master.copy_(state.parameter);
    }
  }
}

void AdamW::set_begins(const std::map<std::string, int64_t>& begins) {
  for (ParameterState& state : states_) {
    const auto begin = begins.find(state.name);
    state.begin = begin == begins.end() ? 0 : begin->second;
  }
}

absl::Status AdamW::ResetParameters() {
  const c10::NoGradGuard no_grad;
  for (const ParameterState& state : states_) {
    if (!state.master.defined()) {
      continue;
    }
    state.parameter.copy_(state.master);
    const auto lost = at::logical_and(at::isinf(state.parameter), at::isfinite(state.master)).sum().item<int64_t>();
    if (lost > 0) {
      return MakeError(ErrorKind::kDType,
                       absl::StrCat("parameter \"", state.name, "\": ", lost, " of ", state.master.numel(),
                                    " elements are finite in float32 and would be infinite as ",
                                    c10::toString(state.parameter.scalar_type()), "; train in float32"));
    }
  }
  return absl::OkStatus();
}

absl::Status AdamW::Step(double learning_rate) {
  if (!(std::isfinite(learning_rate) && learning_rate >= 0)) {
    return MakeError(ErrorKind::kRequest,
                     absl::StrCat("learning rate is ", learning_rate, ", must be finite and not negative"));
  }
  std::vector<std::string> without;
  for (const ParameterState& state : states_) {
    if (!state.parameter.grad().defined()) {
      without.push_back(absl::StrCat("\"", state.name, "\""));
    }
  }
  if (!without.empty()) {
    return MakeError(ErrorKind::kRequest,
                     absl::StrCat(without.size(), " parameters have no gradient: ", absl::StrJoin(without, ", ")));
  }
  const c10::NoGradGuard no_grad;
  ++step_;
  for (const ParameterState& state : states_) {
    Update(state, learning_rate);
  }
  return absl::OkStatus();
}

void AdamW::Update(const ParameterState& state, double learning_rate) const {
  const at::Tensor weights = state.master.defined() ? state.master : state.parameter;
  const at::Tensor gradient = state.parameter.grad().to(at::kFloat);
  const double updates = static_cast<double>(step_ - state.begin);
  const double correction1 = 1 - std::pow(options_.beta1, updates);
  const double correction2 = 1 - std::pow(options_.beta2, updates);

  if (state.decay && options_.weight_decay != 0) {
    weights.mul_(1 - learning_rate * options_.weight_decay);
  }
  state.exp_avg.mul_(options_.beta1).add_(gradient, 1 - options_.beta1);
  state.exp_avg_sq.mul_(options_.beta2).addcmul_(gradient, gradient, 1 - options_.beta2);
  const at::Tensor denominator = at::sqrt(state.exp_avg_sq).div_(std::sqrt(correction2)).add_(options_.epsilon);
  weights.addcdiv_(state.exp_avg, denominator, -learning_rate / correction1);
  if (state.master.defined()) {
    state.parameter.copy_(state.master);
  }
}

void AdamW::ZeroGradients() {
  for (const ParameterState& state : states_) {
    state.parameter.mutable_grad().reset();
  }
}

NamedTensors AdamW::State() const {
  NamedTensors named;
  for (const ParameterState& state : states_) {
    named.emplace_back(absl::StrCat(state.name, "/exp_avg"), state.exp_avg);
    named.emplace_back(absl::StrCat(state.name, "/exp_avg_sq"), state.exp_avg_sq);
    if (state.master.defined()) {
      named.emplace_back(absl::StrCat(state.name, "/master"), state.master);
    }
  }
  return named;
}

}  // namespace waypoint
