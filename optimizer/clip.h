#ifndef OPTIMIZER_CLIP_H_
#define OPTIMIZER_CLIP_H_

// Gradient clipping by the global norm.  One thread.

#include <string>
#include <utility>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace waypoint {

// The 2-norm of all gradients together, before clipping.  When it is above max_norm every gradient is multiplied by
// max_norm / (norm + 1e-6) in place (torch.nn.utils.clip_grad_norm_).  Parameters without a gradient are passed over.
// Infinity only measures.  A norm that is not finite is returned and nothing is changed: whether to skip the step is
// the caller's decision.
// Errors: E_REQUEST unless max_norm > 0.
absl::StatusOr<double> ClipGradientNorm(const std::vector<std::pair<std::string, at::Tensor>>& parameters,
                                        double max_norm);

// The two halves of it, for ranks that hold parts of the parameters and add their sums up in between.  Undefined
// gradients are passed over.
double SumOfSquaredGradients(const std::vector<std::pair<std::string, at::Tensor>>& parameters);
absl::Status ScaleGradients(const std::vector<std::pair<std::string, at::Tensor>>& parameters, double norm,
                            double max_norm);

}  // namespace waypoint

#endif  // OPTIMIZER_CLIP_H_
