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
#include "engine/frozen.h"
#include "xxhash.h"

namespace waypoint::engine {
namespace {

// Keys in TrainingState: in checkpoints, never rename.
constexpr char kOptimizerStep[] = "step";
// "begin/decoder.0.norm_1.weight": AdamW::set_begins.
constexpr char kBeginPrefix[] = "begin/";

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

absl::Status Fill(OpenedCheckpoint& checkpoint, const LiveState& state, bool cast, ReadStats& read) {
  WAYPOINT_ASSIGN_OR_RETURN(const std::unique_ptr<TensorSink> sink, NewLiveSink(state));
  RestoreOptions options;
  options.cast = cast;
  WAYPOINT_ASSIGN_OR_RETURN(const TransferStats stats, Restore(checkpoint, *sink, options));
  read = stats.source;
  return absl::OkStatus();
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
absl::StatusOr<int64_t> OptimizerScalar(const TrainingState& training, const std::string& key, int64_t most) {
  const auto found = training.optimizer_scalars().find(key);
  if (found == training.optimizer_scalars().end() ||
      !(found->second >= 0 && found->second <= static_cast<double>(most))) {
    return MakeError(ErrorKind::kSchema,
                     absl::StrCat("the checkpoint's training state has no usable optimizer scalar \"", key, "\""));
  }
  return static_cast<int64_t>(found->second);
}

}  // namespace

absl::StatusOr<std::unique_ptr<TrainState>> TrainState::Create(const TrainConfig& config, ProcessGroups& groups) {
  auto state = absl::WrapUnique(new TrainState(groups));
  state->config_ = config;
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
  for (const auto& [name, parameter] : state->model_->parameters()) {
    parameter.set_data(parameter.to(groups.device()));
    parameter.set_requires_grad(!IsFrozen(config, name));
  }
  state->shards_ = absl::make_unique<ParameterShards>(*state->model_, groups, config.mesh().zero());
  WAYPOINT_ASSIGN_OR_RETURN(state->optimizer_, AdamW::Create(state->shards_->updated(), OptionsOf(config.optimizer())));
  state->SeedGenerator();
  return state;
}

// Rank 0 of a new run as a job of one: with the seed itself.
void TrainState::SeedGenerator() {
  const std::string name = absl::StrCat("step ", step, " rank ", groups_.rank());
  const bool first = step == 0 && groups_.rank() == 0;
  const uint64_t seed = config_.seed();
  at::manual_seed(first ? seed : XXH3_64bits_withSeed(name.data(), name.size(), seed));
}

LiveState TrainState::Weights() const { return shards_->Weights(); }

void TrainState::AppendOptimizerState(bool masters, const std::set<std::string>& without, LiveState& state) const {
  for (const auto& [name, tensor] : optimizer_->State()) {
    const std::string parameter = ParameterOf(name);
    if ((masters || !absl::EndsWith(name, kMasterSuffix)) && without.count(parameter) == 0) {
      shards_->AppendLike(parameter, name, tensor, state);
    }
  }
}

LiveState TrainState::Tensors() const {
  LiveState state = Weights();
  AppendOptimizerState(/*masters=*/true, /*without=*/{}, state);
  return state;
}

bool TrainState::IsFinite() const {
  // In pieces: memory may be short when this is asked.
  constexpr int64_t kPieceElements = int64_t{1} << 20;
  for (const LiveTensor& live : Tensors()) {
    for (const at::Tensor& piece : live.tensor.reshape({-1}).split(kPieceElements)) {
      if (!at::isfinite(piece).all().item<bool>()) {
        return false;
      }
    }
  }
  return true;
}

TrainingState TrainState::Describe() const {
  TrainingState training;
  training.set_step(step);
  training.set_data_position(data_position);
  training.set_last_loss(last_loss);
  training.set_trainer_config(PrintConfig(config_));
  auto& scalars = *training.mutable_optimizer_scalars();
  scalars[kOptimizerStep] = static_cast<double>(optimizer_->step());
  for (const auto& [name, begin] : begins_) {
    scalars[absl::StrCat(kBeginPrefix, name)] = static_cast<double>(begin);
  }
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

absl::Status TrainState::RestoreOptimizerScalars(const TrainingState& training, const std::set<std::string>& thawed) {
  constexpr int64_t kMostSteps = int64_t{1} << 53;  // whole numbers of a double
  WAYPOINT_ASSIGN_OR_RETURN(const int64_t optimizer_step, OptimizerScalar(training, kOptimizerStep, kMostSteps));
  optimizer_->set_step(optimizer_step);
  for (const auto& scalar : training.optimizer_scalars()) {
    absl::string_view name = scalar.first;
    // One that is frozen now has no moments any more, and one of `thawed` new ones.
    if (absl::ConsumePrefix(&name, kBeginPrefix) && !IsFrozen(config_, name)) {
      WAYPOINT_ASSIGN_OR_RETURN(begins_[std::string(name)], OptimizerScalar(training, scalar.first, optimizer_step));
    }
  }
  for (const std::string& name : thawed) {
    begins_[name] = optimizer_step;
  }
  optimizer_->set_begins(begins_);
  return absl::OkStatus();
}

absl::Status TrainState::RestoreRun(OpenedCheckpoint& checkpoint, const std::set<std::string>& thawed) {
  LiveState state = Weights();
  AppendOptimizerState(/*masters=*/true, /*without=*/thawed, state);
  WAYPOINT_RETURN_IF_ERROR(Fill(checkpoint, state, /*cast=*/false, restored));
  for (const std::string& name : thawed) {
    optimizer_->ResetMaster(name);
  }
  const TrainingState& training = checkpoint.metadata.training();
  WAYPOINT_RETURN_IF_ERROR(RestoreOptimizerScalars(training, thawed));
  step = training.step();
  data_position = training.data_position();
  last_loss = training.last_loss();
  return RestoreGenerator(training);
}

absl::Status TrainState::RestorePretrained(OpenedCheckpoint& checkpoint, const Pretrained& options,
                                           const std::set<std::string>& thawed) {
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
    AppendOptimizerState(/*masters=*/false, /*without=*/thawed, state);
    WAYPOINT_RETURN_IF_ERROR(RestoreOptimizerScalars(checkpoint.metadata.training(), thawed));
  }
  WAYPOINT_RETURN_IF_ERROR(Fill(checkpoint, state, /*cast=*/true, restored));
  WAYPOINT_RETURN_IF_ERROR(optimizer_->ResetParameters());
  return shards_->ShareLoaded();
}

absl::Status TrainState::Restore(Start& start) {
  const std::set<std::string> thawed(start.thawed.begin(), start.thawed.end());
  switch (start.kind) {
    case StartKind::kRandom:
      return absl::OkStatus();
    case StartKind::kPretrained:
      return RestorePretrained(*start.checkpoint, start.config.pretrained(), thawed);
    case StartKind::kResume:
      return RestoreRun(*start.checkpoint, thawed);
  }
  return absl::InternalError("unknown kind of start");
}

}  // namespace waypoint::engine
