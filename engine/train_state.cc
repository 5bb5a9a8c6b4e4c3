#include "engine/train_state.h"

#include <algorithm>
#include <map>
#include <stdexcept>
#include <utility>

#include "ATen/CPUGeneratorImpl.h"
#include "ATen/Functions.h"
#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/checkpointer/checkpointer.h"
#include "engine/catch_torch.h"
#include "xxhash.h"

namespace waypoint::engine {
namespace {

// Key in TrainingState: in checkpoints, never rename.
constexpr char kOptimizerStep[] = "step";

constexpr char kMasterSuffix[] = "/master";

AdamWOptions OptionsOf(const AdamWConfig& config) {
  AdamWOptions options;
  options.beta1 = config.betas(0);
  options.beta2 = config.betas(1);
  options.epsilon = config.eps();
  options.weight_decay = config.weight_decay();
  return options;
}

std::string GeneratorState() {
  const at::Tensor state = at::detail::getDefaultCPUGenerator().get_state();
  return std::string(static_cast<const char*>(state.data_ptr()), state.nbytes());
}

absl::Status SetGeneratorState(const std::string& bytes) {
  const at::Tensor state = at::empty({static_cast<int64_t>(bytes.size())}, at::kByte);
  std::copy(bytes.begin(), bytes.end(), static_cast<char*>(state.data_ptr()));
  const absl::Status status = CatchTorch("random generator", [&] {
    at::Generator generator = at::detail::getDefaultCPUGenerator();  // shares its state
    generator.set_state(state);
    return absl::OkStatus();
  });
  return status.ok() ? status : MakeError(ErrorKind::kSchema, status.message());
}

absl::Status Fill(OpenedCheckpoint& checkpoint, const LiveState& state, bool cast) {
  WAYPOINT_ASSIGN_OR_RETURN(const std::unique_ptr<TensorSink> sink, NewLiveSink(state));
  RestoreOptions options;
  options.cast = cast;
  return Restore(checkpoint, *sink, options).status();
}

// "a.b" of "a.b/exp_avg".
std::string ParameterOf(const std::string& state_name) { return state_name.substr(0, state_name.rfind('/')); }

class GroupRanks : public models::TensorRanks {
 public:
  explicit GroupRanks(ProcessGroups& groups) : groups_(groups) {}
  void Sum(const at::Tensor& tensor) override { Throw(groups_.AllReduceSum(MeshAxis::kTensor, tensor)); }
  void Max(const at::Tensor& tensor) override { Throw(groups_.AllReduceMax(MeshAxis::kTensor, tensor)); }

 private:
  // Through libtorch; whoever catches it finds the status in ProcessGroups::failure.
  static void Throw(const absl::Status& status) {
    if (!status.ok()) {
      throw std::runtime_error(std::string(status.message()));
    }
  }

  ProcessGroups& groups_;
};

// The optimizer counts its updates itself; a checkpoint without the count cannot continue it.
absl::StatusOr<int64_t> OptimizerStep(const CheckpointMetadata& metadata) {
  const auto& scalars = metadata.training().optimizer_scalars();
  const auto found = scalars.find(kOptimizerStep);
  if (found == scalars.end() || !(found->second >= 0 && found->second < 9e15)) {
    return MakeError(
        ErrorKind::kSchema,
        absl::StrCat("the checkpoint's training state has no usable optimizer scalar \"", kOptimizerStep, "\""));
  }
  return static_cast<int64_t>(found->second);
}

}  // namespace

absl::StatusOr<std::unique_ptr<TrainState>> TrainState::Create(const TrainConfig& config, ProcessGroups& groups) {
  auto state = absl::WrapUnique(new TrainState(groups));
  state->printed_config_ = PrintConfig(config);
  state->seed_ = config.seed();
  models::DecoderPart part;
  part.tensor_index = groups.here().tensor;
  part.tensor_size = groups.shape().tensor;
  part.stage = groups.here().pipeline;
  part.stages = groups.shape().pipeline;
  if (part.tensor_size > 1) {
    state->tensor_ranks_ = absl::make_unique<GroupRanks>(groups);
  }
  at::ScalarType dtype = config.dtype() == "bfloat16" ? at::kBFloat16 : at::kFloat;
  WAYPOINT_ASSIGN_OR_RETURN(state->model_,
                            models::DecoderModule::Create(config.model(), dtype, part, state->tensor_ranks_.get()));
  state->model_->Initialize(config.seed());
  state->shards_ = absl::make_unique<ParameterShards>(*state->model_, groups, config.mesh().zero());
  WAYPOINT_ASSIGN_OR_RETURN(state->optimizer_, AdamW::Create(state->shards_->updated(), OptionsOf(config.optimizer())));
  state->SeedGenerator();
  return state;
}

// Rank 0 of a new run as a job of one: with the seed itself.
void TrainState::SeedGenerator() {
  const std::string name = absl::StrCat("step ", step, " rank ", groups_.rank());
  const bool first = step == 0 && groups_.rank() == 0;
  at::manual_seed(first ? seed_ : XXH3_64bits_withSeed(name.data(), name.size(), seed_));
}

LiveState TrainState::Weights() const { return shards_->Weights(); }

void TrainState::AppendOptimizerState(bool masters, LiveState& state) const {
  for (const auto& [name, tensor] : optimizer_->State()) {
    if (masters || !absl::EndsWith(name, kMasterSuffix)) {
      shards_->AppendLike(ParameterOf(name), name, tensor, state);
    }
  }
}

LiveState TrainState::Tensors() const {
  LiveState state = Weights();
  AppendOptimizerState(/*masters=*/true, state);
  return state;
}

TrainingState TrainState::Describe() const {
  TrainingState training;
  training.set_step(step);
  training.set_data_position(data_position);
  training.set_last_loss(last_loss);
  training.set_trainer_config(printed_config_);
  (*training.mutable_optimizer_scalars())[kOptimizerStep] = static_cast<double>(optimizer_->step());
  (*training.mutable_rng_states())[GeneratorKey(groups_.rank(), groups_.shape().world_size())] = GeneratorState();
  return training;
}

NamedTensors TrainState::UpdatedWeights() const {
  std::map<std::string, at::Tensor> masters;
  for (const auto& [name, tensor] : optimizer_->State()) {
    if (absl::EndsWith(name, kMasterSuffix)) {
      masters[std::string(absl::StripSuffix(name, kMasterSuffix))] = tensor;
    }
  }
  NamedTensors weights;
  for (const auto& [name, parameter] : shards_->updated()) {
    const auto master = masters.find(name);
    weights.emplace_back(name, master == masters.end() ? parameter : master->second);
  }
  return weights;
}

// A rank's own generator, where as many ranks saved theirs.
absl::Status TrainState::RestoreGenerator(const TrainingState& training) {
  const int world_size = groups_.shape().world_size();
  const std::string key = GeneratorKey(groups_.rank(), world_size);
  const auto generator = training.rng_states().find(key);
  const int saved = SavedGenerators(training);
  if (saved != world_size && saved > 0) {
    SeedGenerator();
    return absl::OkStatus();
  }
  if (generator == training.rng_states().end()) {
    return MakeError(ErrorKind::kSchema,
                     absl::StrCat("the checkpoint's training state has no random generator \"", key, "\""));
  }
  return SetGeneratorState(generator->second);
}

absl::Status TrainState::RestoreRun(OpenedCheckpoint& checkpoint) {
  WAYPOINT_RETURN_IF_ERROR(Fill(checkpoint, Tensors(), /*cast=*/false));
  const TrainingState& training = checkpoint.metadata.training();
  WAYPOINT_ASSIGN_OR_RETURN(const int64_t optimizer_step, OptimizerStep(checkpoint.metadata));
  optimizer_->set_step(optimizer_step);
  step = training.step();
  data_position = training.data_position();
  last_loss = training.last_loss();
  return RestoreGenerator(training);
}

absl::Status TrainState::RestorePretrained(OpenedCheckpoint& checkpoint, const Pretrained& options) {
  if (!options.model_weights()) {
    return absl::OkStatus();
  }
  // Stored masters are what a 16-bit run knows of its weights; they belong to the optimizer's state.
  LiveState state;
  for (const auto& [name, tensor] : UpdatedWeights()) {
    const std::string master = absl::StrCat(name, kMasterSuffix);
    const bool take_master = options.optimizer_state() && checkpoint.tensors->manifest().Find(master) >= 0;
    shards_->AppendLike(name, take_master ? master : name, tensor, state);
  }
  if (options.optimizer_state()) {
    AppendOptimizerState(/*masters=*/false, state);
    WAYPOINT_ASSIGN_OR_RETURN(const int64_t optimizer_step, OptimizerStep(checkpoint.metadata));
    optimizer_->set_step(optimizer_step);
  }
  WAYPOINT_RETURN_IF_ERROR(Fill(checkpoint, state, /*cast=*/true));
  optimizer_->ResetParameters();
  return shards_->EndStep();
}

absl::Status TrainState::Restore(Start& start) {
  switch (start.kind) {
    case StartKind::kRandom:
      return absl::OkStatus();
    case StartKind::kPretrained:
      return RestorePretrained(*start.checkpoint, start.config.pretrained());
    case StartKind::kResume:
      return RestoreRun(*start.checkpoint);
  }
  return absl::InternalError("unknown kind of start");
}

}  // namespace waypoint::engine
