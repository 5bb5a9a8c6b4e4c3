#ifndef MODELS_DECODER_DECODER_MODULE_H_
#define MODELS_DECODER_DECODER_MODULE_H_

// The decoder as a libtorch computation over named parameters.
//
//   WAYPOINT_ASSIGN_OR_RETURN(auto model, DecoderModule::Create(config, at::kFloat));
//   at::Tensor logits;
//   WAYPOINT_ASSIGN_OR_RETURN(logits, model->Forward(input_ids));
//
// Parameters have the names and layout of parameters.h.  A rank of many holds and runs a part of the model: the layers
// of its stage, its heads and channels, its rows of the vocabulary (sharding.h).  One thread.

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "models/decoder/config.pb.h"
#include "models/decoder/sharding.h"
#include "models/decoder/tensor_parallel.h"

namespace waypoint::models {

class DecoderModule {
 public:
  // Uninitialised parameters of the given dtype on the CPU, requires_grad set.  `ranks` connects the tensor ranks that
  // the model is cut over, and outlives it; null where it is not.
  // Errors: E_CONFIG; E_UNSUPPORTED naming each part of the config that the module cannot compute; E_REQUEST for a
  // dtype other than float16, bfloat16, float32 and float64; those of CheckPart; E_LIMIT when there is not the memory.
  static absl::StatusOr<std::unique_ptr<DecoderModule>> Create(const DecoderConfig& config, at::ScalarType dtype,
                                                               const DecoderPart& part = {},
                                                               TensorRanks* ranks = nullptr);

  // Everything that Create would refuse as not computable, without allocating.
  static absl::Status CheckComputable(const DecoderConfig& config);

  // CheckComputable, and what Forward leaves out but training needs: dropout, router losses and jitter, stochastic
  // mixers (the main one runs), further prediction heads (the first one runs).  E_CONFIG, E_UNSUPPORTED.
  static absl::Status CheckTrainable(const DecoderConfig& config);

  // normal(0, 0.02) weights, not truncated; ones for norms (zeros for zero-centred ones), zeros for biases; a function
  // of the seed and each parameter's name, not of their order or of what part is here.
  void Initialize(uint64_t seed);

  // Of the first stage: int64 ids [batch, length].  Of the last: logits of the first prediction head, [batch, length,
  // vocabulary of this rank], in the parameters' dtype.  Between stages: [batch, length, H], in the same.
  // Errors: E_REQUEST for a wrong dtype, rank, or an id outside the vocabulary (the first one named).
  absl::StatusOr<at::Tensor> Forward(const at::Tensor& input);

  // Mean cross entropy, in float32, of the last stage's logits; targets: int64 ids [batch, length].  May throw what
  // TensorRanks throws, as may its backward pass.
  at::Tensor Loss(const at::Tensor& logits, const at::Tensor& targets);

  // What is here, by name, in the order of parameters.h; sharded() says what part of each.
  const std::vector<std::pair<std::string, at::Tensor>>& parameters() const { return parameters_; }
  const std::vector<ShardedParameter>& sharded() const { return sharded_; }
  const DecoderConfig& config() const { return config_; }
  const DecoderPart& part() const { return part_; }

 private:
  DecoderModule(const DecoderConfig& config, const DecoderPart& part, TensorRanks* ranks);

  at::Tensor Run(const at::Tensor& input);

  const DecoderConfig config_;
  const DecoderConfig local_config_;  // of the tensor rank
  const DecoderPart part_;
  TensorRanks* const ranks_;
  const std::vector<ShardedParameter> sharded_;
  std::vector<std::pair<std::string, at::Tensor>> parameters_;
  std::map<std::string, at::Tensor> by_name_;
};

}  // namespace waypoint::models

#endif  // MODELS_DECODER_DECODER_MODULE_H_
