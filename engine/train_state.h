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
#include <map>
#include <memory>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoint/format/metadata.pb.h"
#include "checkpoint/tensor/tensor_source.h"
#include "checkpoint/torch/tensor_bridge.h"
#include "engine/collectives.h"
#include "engine/config.h"
#include "engine/parameter_shards.h"
#include "engine/start.h"
#include "models/decoder/decoder_module.h"
#include "optimizer/adamw.h"

namespace waypoint::engine {

class TrainState {
 public:
  // This rank's part of it, on the device of `groups`, parameters of config.frozen not to be trained.  Seeds libtorch's
  // CPU generator.  `config` as ResolveStart left it; `groups` connect the ranks of its mesh and outlive the state.
  // Errors: those of DecoderModule::Create.
  static absl::StatusOr<std::unique_ptr<TrainState>> Create(const TrainConfig& config, ProcessGroups& groups);

  // Fills the state from start.checkpoint, each rank reading its own boxes: everything, bit for bit, for kResume; what
  // `pretrained` asks for, cast to the run's dtype, for kPretrained; nothing for kRandom.  Parameters of start.thawed
  // begin with moments of zero and masters as their weights are.
  // Errors: those of Restore and ProcessGroups; E_SCHEMA for a random generator's state, or for the optimizer's
  // scalars, that are none.
  absl::Status Restore(Start& start);

  // Parameters by name, and the optimizer's tensors "<parameter>/exp_avg", "/exp_avg_sq", "/master" of those that are
  // not frozen: boxes of them where this rank has no more.  Shared, not copied.
  LiveState Tensors() const;
  LiveState Weights() const;

  // Whether all numbers that this rank holds are finite.  May throw what libtorch throws.
  bool IsFinite() const;

  // What a checkpoint says about the run beside its tensors.
  TrainingState Describe() const;

  models::DecoderModule& model() { return *model_; }
  ParameterShards& shards() { return *shards_; }
  AdamW& optimizer() { return *optimizer_; }

  int64_t step = 0;           // completed
  int64_t data_position = 0;  // tokens consumed
  double last_loss = 0;
  ReadStats restored;  // what Restore read

 private:
  explicit TrainState(ProcessGroups& groups) : groups_(groups) {}

  absl::Status RestoreRun(OpenedCheckpoint& checkpoint, const std::set<std::string>& thawed);
  absl::Status RestorePretrained(OpenedCheckpoint& checkpoint, const Pretrained& options,
                                 const std::set<std::string>& thawed);
  // The optimizer's own count of steps, and where `thawed` and earlier ones like them began.
  absl::Status RestoreOptimizerScalars(const TrainingState& training, const std::set<std::string>& thawed);
  absl::Status RestoreGenerator(const TrainingState& training);
  void SeedGenerator();
  // The tensor that updates are made on, by parameter name: the master where there is one, else the parameter.
  NamedTensors UpdatedWeights() const;
  void AppendOptimizerState(bool masters, const std::set<std::string>& without, LiveState& state) const;

  ProcessGroups& groups_;
  TrainConfig config_;
  // AdamW::set_begins; of all ranks' parameters, because rank 0 says it in the checkpoint.
  std::map<std::string, int64_t> begins_;
  std::unique_ptr<models::TensorRanks> tensor_ranks_;  // null for one
  std::unique_ptr<models::DecoderModule> model_;
  std::unique_ptr<ParameterShards> shards_;
  std::unique_ptr<AdamW> optimizer_;
};

}  // namespace waypoint::engine

#endif  // ENGINE_TRAIN_STATE_H_
