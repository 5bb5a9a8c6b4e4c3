#include "tools/run_decoder.h"

#include <exception>

#include "ATen/ATen.h"
#include "ATen/Parallel.h"
#include "absl/strings/str_cat.h"
#include "c10/core/GradMode.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/checkpointer/checkpointer.h"
#include "checkpoint/torch/tensor_bridge.h"
#include "models/decoder/compute_threads.h"

namespace waypoint {

absl::StatusOr<std::unique_ptr<models::DecoderModule>> LoadFloat32Decoder(OpenedCheckpoint& checkpoint,
                                                                          const TransferOptions& transfer,
                                                                          DType round_to) {
  models::DecoderConfig config;
  if (!checkpoint.metadata.model_config().UnpackTo(&config)) {
    return MakeError(ErrorKind::kConfig,
                     absl::StrCat("the checkpoint's model is \"", checkpoint.metadata.model_config().type_url(),
                                  "\", only decoders can be computed"));
  }
  WAYPOINT_RETURN_IF_ERROR(models::StartComputeThreads(at::get_num_threads()));
  WAYPOINT_ASSIGN_OR_RETURN(auto model, models::DecoderModule::Create(config, at::kFloat));
  c10::NoGradGuard no_grad;
  LiveState state;
  for (const auto& [name, parameter] : model->parameters()) {
    state.push_back({name, parameter.detach(), {}, {}});
  }
  WAYPOINT_ASSIGN_OR_RETURN(const auto sink, NewLiveSink(state));
  RestoreOptions options;
  options.transfer = transfer;
  WAYPOINT_RETURN_IF_ERROR(Restore(checkpoint, *sink, options).status());
  if (round_to != DType::kInvalid) {
    WAYPOINT_ASSIGN_OR_RETURN(const at::ScalarType rounded, DTypeToTorch(round_to));
    for (LiveTensor& live : state) {
      const at::Tensor narrow = live.tensor.to(rounded);
      const auto lost = at::logical_and(at::isinf(narrow), at::isfinite(live.tensor)).sum().item<int64_t>();
      if (lost > 0) {
        return MakeError(ErrorKind::kDType,
                         absl::StrCat("tensor \"", live.name, "\": ", lost, " of ", live.tensor.numel(),
                                      " elements are finite and would be infinite as ", DTypeTorchName(round_to)));
      }
      live.tensor.copy_(narrow);
    }
  }
  return model;
}

absl::StatusOr<at::Tensor> ComputeLogits(models::DecoderModule& model, const at::Tensor& input_ids) {
  c10::NoGradGuard no_grad;
  WAYPOINT_ASSIGN_OR_RETURN(const at::Tensor logits, model.Forward(input_ids));
  return logits.to(at::kFloat).contiguous();
}

}  // namespace waypoint
