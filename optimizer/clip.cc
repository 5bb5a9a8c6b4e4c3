#include "optimizer/clip.h"

#include <cmath>

#include "ATen/ATen.h"
#include "absl/strings/str_cat.h"
#include "c10/core/GradMode.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"

namespace waypoint {

double SumOfSquaredGradients(const std::vector<std::pair<std::string, at::Tensor>>& parameters) {
  const c10::NoGradGuard no_grad;
  double sum_of_squares = 0;
  for (const auto& [name, parameter] : parameters) {
    const at::Tensor gradient = parameter.grad();
    if (gradient.defined()) {
      const double norm =
          at::linalg_vector_norm(gradient, 2, at::OptionalIntArrayRef(), false, at::kFloat).item<double>();
      sum_of_squares += norm * norm;
    }
  }
  return sum_of_squares;
}

absl::Status ScaleGradients(const std::vector<std::pair<std::string, at::Tensor>>& parameters, double norm,
                            double max_norm) {
  if (!(max_norm > 0)) {
    return MakeError(ErrorKind::kRequest, absl::StrCat("max_norm is ", max_norm, ", must be above 0"));
  }
  if (!std::isfinite(norm) || norm <= max_norm) {
    return absl::OkStatus();
  }
  const c10::NoGradGuard no_grad;
  for (const auto& [name, parameter] : parameters) {
    const at::Tensor gradient = parameter.grad();
    if (gradient.defined()) {
      gradient.mul_(max_norm / (norm + 1e-6));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<double> ClipGradientNorm(const std::vector<std::pair<std::string, at::Tensor>>& parameters,
                                        double max_norm) {
  const double norm = std::sqrt(SumOfSquaredGradients(parameters));
  WAYPOINT_RETURN_IF_ERROR(ScaleGradients(parameters, norm, max_norm));
  return norm;
}

}  // namespace waypoint
