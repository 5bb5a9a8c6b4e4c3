#include "engine/train_state.h"

#include <algorithm>
#include <map>
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

namespace waypoint::engine {
namespace {

// Keys in TrainingState: in checkpoints, never rename.
constexpr char kOptimizerStep[] = "step";
constexpr char kCpuGenerator[] = "torch_cpu";

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

void Append(const NamedTensors& tensors, LiveState& state) {
  for (const auto& [name, tensor] : tensors) {
    state.push_back({name, tensor.detach()});
  }
}

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

absl::StatusOr<std::unique_ptr<TrainState>> TrainState::Create(const TrainConfig& config) {
  auto state = absl::WrapUnique(new TrainState);
  state->printed_config_ = PrintConfig(config);
  at::ScalarType dtype = config.dtype() == "bfloat16" ? at::kBFloat16 : at::kFloat;
  WAYPOINT_ASSIGN_OR_RETURN(state->model_, models::DecoderModule::Create(config.model(), dtype));
  state->model_->Initialize(config.seed());
  WAYPOINT_ASSIGN_OR_RETURN(state->optimizer_,
                            AdamW::Create(state->model_->parameters(), OptionsOf(config.optimizer())));
  at::manual_seed(config.seed());
  return state;
}

LiveState TrainState::Weights() const {
  LiveState state;
  Append(model_->parameters(), state);
  return state;
}

LiveState TrainState::Tensors() const {
  LiveState state = Weights();
  Append(optimizer_->State(), state);
  return state;
}

TrainingState TrainState::Describe() const {
  TrainingState training;
  training.set_step(step);
  training.set_data_position(data_position);
  training.set_last_loss(last_loss);
  training.set_trainer_config(printed_config_);
  (*training.mutable_optimizer_scalars())[kOptimizerStep] = static_cast<double>(optimizer_->step());
  (*training.mutable_rng_states())[kCpuGenerator] = GeneratorState();
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
  for (const auto& [name, parameter] : model_->parameters()) {
    const auto master = masters.find(name);
    weights.emplace_back(name, master == masters.end() ? parameter : master->second);
  }
  return weights;
}

absl::Status TrainState::RestoreRun(OpenedCheckpoint& checkpoint) {
  WAYPOINT_RETURN_IF_ERROR(Fill(checkpoint, Tensors(), /*cast=*/false));
  const TrainingState& training = checkpoint.metadata.training();
  WAYPOINT_ASSIGN_OR_RETURN(const int64_t optimizer_step, OptimizerStep(checkpoint.metadata));
  const auto generator = training.rng_states().find(kCpuGenerator);
  if (generator == training.rng_states().end()) {
    return MakeError(ErrorKind::kSchema,
                     absl::StrCat("the checkpoint's training state has no random generator \"", kCpuGenerator, "\""));
  }
  WAYPOINT_RETURN_IF_ERROR(SetGeneratorState(generator->second));
  optimizer_->set_step(optimizer_step);
  step = training.step();
  data_position = training.data_position();
  last_loss = training.last_loss();
  return absl::OkStatus();
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
    state.push_back({take_master ? master : name, tensor.detach()});
  }
  if (options.optimizer_state()) {
    for (const auto& [name, tensor] : optimizer_->State()) {
      if (!absl::EndsWith(name, kMasterSuffix)) {
        state.push_back({name, tensor});
      }
    }
    WAYPOINT_ASSIGN_OR_RETURN(const int64_t optimizer_step, OptimizerStep(checkpoint.metadata));
    optimizer_->set_step(optimizer_step);
  }
  WAYPOINT_RETURN_IF_ERROR(Fill(checkpoint, state, /*cast=*/true));
  optimizer_->ResetParameters();
  return absl::OkStatus();
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
