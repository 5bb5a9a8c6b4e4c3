#ifndef OPTIMIZER_ADAMW_H_
#define OPTIMIZER_ADAMW_H_

// AdamW (arXiv 1711.05101): Adam with bias correction and decoupled weight decay, by torch.optim.AdamW's formulas.
//
//   WAYPOINT_ASSIGN_OR_RETURN(auto optimizer, AdamW::Create(model->parameters(), {}));
//   loss.backward();
//   WAYPOINT_RETURN_IF_ERROR(optimizer->Step(learning_rate));
//   optimizer->ZeroGradients();
//
// State of a parameter "p", float32, of the parameter's shape: "p/exp_avg", "p/exp_avg_sq" and, where p is bfloat16 or
// float16, "p/master": the weights that are updated, of which p is the rounded copy.  Scalars: step(), and where
// the parameters that are trained from a later step on began.
//
// Every formula is elementwise, so a parameter may be any box of a larger tensor, with the state of that box.  The
// same gradients give the same bits.  Parameters and their state share storage with those given and returned.
// One thread.

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace waypoint {

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0.01;
  // Also for parameters of fewer than two dimensions (norms, biases).
  bool decay_vectors = false;
};

class AdamW {
 public:
  // Parameters that do not require gradients are frozen: no state, no update.  Masters start as the parameters are.
  // Errors: E_REQUEST for options out of range, or parameters that are not float32, bfloat16 or float16.
  static absl::StatusOr<std::unique_ptr<AdamW>> Create(const NamedTensors& parameters, const AdamWOptions& options);

  // One update of all parameters from their gradients.  Changes nothing on an error.
  // Errors: E_REQUEST for a learning rate that is negative or not finite, or parameters without a gradient (all named).
  absl::Status Step(double learning_rate);

  void ZeroGradients();

  // Masters from parameters: after weights were loaded without optimizer state.
  void ResetMasters();
  // Of one parameter; nothing for one that has no master.
  void ResetMaster(const std::string& parameter);
  // Parameters from masters, with the rounding of Step: after optimizer state was loaded without weights.
  // E_DTYPE for finite elements that the parameter's type cannot hold.
  absl::Status ResetParameters();

  // All state tensors, parameter by parameter, to be saved or filled in place.
  NamedTensors State() const;

  // Updates done.
  int64_t step() const { return step_; }
  void set_step(int64_t step) { step_ = step; }
  // What step() was before the first update of each parameter that was not trained from the beginning; others: 0.
  // Bias correction counts a parameter's own updates, step() - begin, as torch.optim.AdamW's step of each parameter
  // does: moments that begin at zero at step 1000 would otherwise be taken for the average of 1000 gradients, and the
  // first updates be (1 - beta1) / sqrt(1 - beta2) times too large or small.  Names that are not here are passed over.
  void set_begins(const std::map<std::string, int64_t>& begins);

 private:
  struct ParameterState {
    std::string name;
    at::Tensor parameter;
    at::Tensor exp_avg;
    at::Tensor exp_avg_sq;
    at::Tensor master;  // undefined for float32
    bool decay = false;
    int64_t begin = 0;
  };

  explicit AdamW(const AdamWOptions& options) : options_(options) {}

  void Update(const ParameterState& state, double learning_rate) const;

  AdamWOptions options_;
  std::vector<ParameterState> states_;
  int64_t step_ = 0;
};

}  // namespace waypoint

#endif  // OPTIMIZER_ADAMW_H_
