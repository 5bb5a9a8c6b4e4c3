#ifndef TOOLS_RUN_DECODER_H_
#define TOOLS_RUN_DECODER_H_

// A checkpoint of any format as a model that computes logits in float32.
//
//   WAYPOINT_ASSIGN_OR_RETURN(const auto model, LoadFloat32Decoder(opened, {}, DType::kInvalid));
//   WAYPOINT_ASSIGN_OR_RETURN(const at::Tensor logits, ComputeLogits(*model, tokens));
//
// One thread per model.

#include <memory>

#include "ATen/core/Tensor.h"
#include "absl/status/statusor.h"
#include "checkpoint/base/dtype.h"
#include "checkpoint/format/checkpoint_format.h"
#include "checkpoint/tensor/transfer.h"
#include "models/decoder/decoder_module.h"

namespace waypoint {

// Loads the weights (no optimizer state), in float32.  Unless `round_to` is kInvalid, they are rounded to it first.
// Errors: E_CONFIG when the checkpoint's model is no decoder; as DecoderModule::Create and Restore.
absl::StatusOr<std::unique_ptr<models::DecoderModule>> LoadFloat32Decoder(OpenedCheckpoint& checkpoint,
                                                                          const TransferOptions& transfer,
                                                                          DType round_to);

// [batch, length, vocabulary], float32, without gradients.  Errors: E_REQUEST as DecoderModule::Forward.
absl::StatusOr<at::Tensor> ComputeLogits(models::DecoderModule& model, const at::Tensor& input_ids);

}  // namespace waypoint

#endif  // TOOLS_RUN_DECODER_H_
