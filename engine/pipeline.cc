#include "engine/pipeline.h"

#include <vector>

#include "ATen/ATen.h"
#include "checkpoint/base/status_macros.h"

namespace waypoint::engine {
namespace {

class Schedule {
 public:
  Schedule(models::DecoderModule& model, ProcessGroups& groups, const Batch& batch, int micro_batches, double weight)
      : model_(model), groups_(groups), batch_(batch), micro_batches_(micro_batches), weight_(weight) {}

  absl::StatusOr<double> Run() {
    inputs_.resize(micro_batches_);
    outputs_.resize(micro_batches_);
    const bool one_stage = model_.part().stages == 1;
    for (int i = 0; i < micro_batches_; ++i) {
      WAYPOINT_RETURN_IF_ERROR(Forward(i));
      if (one_stage) {
        WAYPOINT_RETURN_IF_ERROR(Backward(i));
      }
    }
    for (int i = micro_batches_; i-- > 0 && !one_stage;) {
      WAYPOINT_RETURN_IF_ERROR(Backward(i));
    }
    return loss_;
  }

 private:
  int stage() const { return model_.part().stage; }
  at::Tensor Rows(const at::Tensor& batch, int index) const {
    const int64_t rows = batch.size(0) / micro_batches_;
    return micro_batches_ == 1 ? batch : batch.narrow(0, index * rows, rows);
  }

  absl::Status Forward(int index) {
    at::Tensor input = Rows(batch_.inputs, index);
    if (!model_.part().first_stage()) {
      const at::TensorOptions options =
          at::TensorOptions(model_.parameters()[0].second.scalar_type()).device(groups_.device());
      input = at::empty({input.size(0), input.size(1), model_.config().hidden_size()}, options);
      WAYPOINT_RETURN_IF_ERROR(groups_.Recv(MeshAxis::kPipeline, input, stage() - 1));
      input.set_requires_grad(true);
    }
    WAYPOINT_ASSIGN_OR_RETURN(at::Tensor output, model_.Forward(input));
    if (model_.part().last_stage()) {
      output = model_.Loss(output, Rows(batch_.targets, index));
      loss_ += output.item<double>() / micro_batches_;
      if (const double weight = weight_ / micro_batches_; weight != 1) {
        output = output * weight;
      }
    } else {
      WAYPOINT_RETURN_IF_ERROR(groups_.Send(MeshAxis::kPipeline, output.detach().contiguous(), stage() + 1));
    }
    inputs_[index] = input;
    outputs_[index] = output;
    return absl::OkStatus();
  }

  absl::Status Backward(int index) {
    // Let go of here, so that activations are freed as their gradients are done.
    const at::Tensor input = std::move(inputs_[index]);
    const at::Tensor output = std::move(outputs_[index]);
    if (model_.part().last_stage()) {
      output.backward();
    } else {
      const at::Tensor gradient = at::empty(output.sizes(), output.options().requires_grad(false));
      WAYPOINT_RETURN_IF_ERROR(groups_.Recv(MeshAxis::kPipeline, gradient, stage() + 1));
      // Not where all of the first stage is frozen; the next one does not know and sends what this one lets go.
      if (output.requires_grad()) {
        output.backward(gradient);
      }
    }
    if (model_.part().first_stage()) {
      return absl::OkStatus();
    }
    return groups_.Send(MeshAxis::kPipeline, input.grad().contiguous(), stage() - 1);
  }

  models::DecoderModule& model_;
  ProcessGroups& groups_;
  const Batch& batch_;
  const int micro_batches_;
  const double weight_;
  std::vector<at::Tensor> inputs_;
  std::vector<at::Tensor> outputs_;
  double loss_ = 0;
};

}  // namespace

absl::StatusOr<double> RunForwardBackward(models::DecoderModule& model, ProcessGroups& groups, const Batch& batch,
                                          int micro_batches, double weight) {
  return Schedule(model, groups, batch, micro_batches, weight).Run();
}

}  // namespace waypoint::engine
