#ifndef MODELS_DECODER_DECODER_MODULE_H_
#define MODELS_DECODER_DECODER_MODULE_H_

// The decoder as a libtorch computation over named parameters.
//
//   WAYPOINT_ASSIGN_OR_RETURN(auto model, DecoderModule::Create(config, at::kFloat));
//   at::Tensor logits;
//   WAYPOINT_ASSIGN_OR_RETURN(logits, model->Forward(input_ids));
//
// Parameters have the names and layout of parameters.h.  One thread.

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

namespace waypoint::models {

class DecoderModule {
 public:
  // Uninitialised parameters of the given dtype on the CPU, requires_grad set.
  // Errors: E_CONFIG; E_UNSUPPORTED naming each part of the config that the module cannot compute; E_REQUEST for a
  // dtype other than float16, bfloat16, float32 and float64; E_LIMIT when there is not the memory.
  static absl::StatusOr<std::unique_ptr<DecoderModule>> Create(const DecoderConfig& config, at::ScalarType dtype);

  // Everything that Create would refuse as not computable, without allocating.
  static absl::Status CheckComputable(const DecoderConfig& config);

  // CheckComputable, and what Forward leaves out but training needs: dropout, router losses and jitter, stochastic
  // mixers (the main one runs), further prediction heads (the first one runs).  E_CONFIG, E_UNSUPPORTED.
  static absl::Status CheckTrainable(const DecoderConfig& config);

  // normal(0, 0.02) weights, not truncated; ones for norms (zeros for zero-centred ones), zeros for biases; a function
  // of the seed and each parameter's name, not of their order.
  void Initialize(uint64_t seed);

  // input_ids: int64 [batch, length].  Logits of the first prediction head: [batch, length, vocab_size], in the
  // parameters' dtype. Errors: E_REQUEST for a wrong dtype, rank, or an id outside the vocabulary (the first one
  // named).
  absl::StatusOr<at::Tensor> Forward(const at::Tensor& input_ids);

  // Parameters by name, in the order of parameters.h.
  const std::vector<std::pair<std::string, at::Tensor>>& parameters() const { return parameters_; }
  const DecoderConfig& config() const { return config_; }

 private:
  DecoderModule(const DecoderConfig& config, std::vector<std::pair<std::string, at::Tensor>> parameters);

  DecoderConfig config_;
  std::vector<std::pair<std::string, at::Tensor>> parameters_;
  std::map<std::string, at::Tensor> by_name_;
};

}  // namespace waypoint::models

#endif  // MODELS_DECODER_DECODER_MODULE_H_
