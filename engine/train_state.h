#ifndef ENGINE_TRAIN_STATE_H_
#define ENGINE_TRAIN_STATE_H_

// All that a training run changes: weights, optimizer, random generator, and where it is.
//
//   WAYPOINT_ASSIGN_OR_RETURN(auto state, TrainState::Create(config));     // random weights, step 0
//   WAYPOINT_RETURN_IF_ERROR(state->Restore(start));                       // or what a checkpoint holds
//   WAYPOINT_ASSIGN_OR_RETURN(auto source, NewLiveSource(state->Tensors()));
//
// One thread.

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoint/format/metadata.pb.h"
#include "checkpoint/torch/tensor_bridge.h"
#include "engine/config.h"
#include "engine/start.h"
#include "models/decoder/decoder_module.h"
#include "optimizer/adamw.h"

namespace waypoint::engine {

class TrainState {
 public:
  // Seeds libtorch's CPU generator.  `config` as ResolveStart left it.  Errors: those of DecoderModule::Create.
  static absl::StatusOr<std::unique_ptr<TrainState>> Create(const TrainConfig& config);

  // Fills the state from start.checkpoint: everything, bit for bit, for kResume; what `pretrained` asks for, cast to
  // the run's dtype, for kPretrained; nothing for kRandom.
  // Errors: those of Restore; E_SCHEMA for a random generator's state that is none.
  absl::Status Restore(Start& start);

  // Parameters by name, and the optimizer's tensors "<parameter>/exp_avg", "/exp_avg_sq", "/master".  Shared, not
  // copied.
  LiveState Tensors() const;
  LiveState Weights() const;

  // What a checkpoint says about the run beside its tensors.
  TrainingState Describe() const;

  models::DecoderModule& model() { return *model_; }
  AdamW& optimizer() { return *optimizer_; }

  int64_t step = 0;           // completed
  int64_t data_position = 0;  // tokens consumed
  double last_loss = 0;

 private:
  TrainState() = default;

  absl::Status RestoreRun(OpenedCheckpoint& checkpoint);
  absl::Status RestorePretrained(OpenedCheckpoint& checkpoint, const Pretrained& options);
  // The tensor that updates are made on, by parameter name: the master where there is one, else the parameter.
  NamedTensors UpdatedWeights() const;

  std::string printed_config_;
  std::unique_ptr<models::DecoderModule> model_;
  std::unique_ptr<AdamW> optimizer_;
};

}  // namespace waypoint::engine

#endif  // ENGINE_TRAIN_STATE_H_
