#include "engine/start.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/list_error.h"
#include "checkpoint/base/registry.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/checkpointer/checkpointer.h"
#include "checkpoint/format/asset_copy.h"
#include "checkpoint/format/saved_state.h"
#include "checkpoint/tensor/manifest.h"
#include "engine/data_record.h"
#include "engine/frozen.h"
#include "engine/own_checkpoints.h"
#include "models/decoder/decoder_module.h"
#include "models/decoder/parameters.h"
#include "models/decoder/sharding.h"

namespace waypoint::engine {
namespace {

absl::StatusOr<models::DecoderConfig> ModelOf(const CheckpointMetadata& metadata) {
  models::DecoderConfig model;
  if (!metadata.model_config().UnpackTo(&model)) {
    return MakeError(ErrorKind::kUnsupported,
                     absl::StrCat("its model config is a \"", metadata.model_config().type_url(),
                                  "\", this trainer trains waypoint.models.DecoderConfig"));
  }
  return model;
}

absl::StatusOr<TrainConfig> TrainerConfigOf(const CheckpointMetadata& metadata) {
  if (metadata.training().trainer_config().empty()) {
    return MakeError(ErrorKind::kRequest, "it holds no trainer config; set pretrained.load_config to MODEL or NONE");
  }
  return ParsePrintedConfig(metadata.training().trainer_config(), "its trainer config");
}

constexpr char kCpuGenerator[] = "torch_cpu";

absl::Status Finish(const ConfigLayers& layers, const TrainConfig& base, const JobRanks& ranks, Start& start) {
  start.config = layers.Merged(base);
  WAYPOINT_RETURN_IF_ERROR(FillAndCheck(start.config, ranks.world_size()));
  if (!start.config.has_model()) {
    return MakeError(ErrorKind::kRequest,
                     "config names no model: set `model`, or `pretrained` with load_config MODEL or FULL");
  }
  if (start.config.threads() == 0) {
    start.config.set_threads(
        std::max(1, static_cast<int>(std::thread::hardware_concurrency()) / std::max(1, ranks.on_this_host)));
  }
  Registry<CheckpointFormat>& formats = Registry<CheckpointFormat>::Global();
  if (start.config.has_export_() && formats.Find(start.config.export_().format()) == nullptr) {
    return MakeError(ErrorKind::kRequest, absl::StrCat("export.format: no format \"", start.config.export_().format(),
                                                       "\" (linked: ", absl::StrJoin(formats.Names(), ", "), ")"));
  }
  // What the module would leave out of a step is refused, not approximated.
  WAYPOINT_RETURN_IF_ERROR(Annotate(models::DecoderModule::CheckTrainable(start.config.model()), "`model`"));
  WAYPOINT_RETURN_IF_ERROR(CheckFrozen(start.config));
  const MeshConfig& mesh = start.config.mesh();
  return models::CheckPart(start.config.model(), {0, mesh.tensor(), 0, mesh.pipeline()});
}

// `stored`: the config under which the optimizer state was saved.
void NoteFreezing(const TrainConfig& stored, Start& start) {
  FreezingChange change = CompareFreezing(stored, start.config);
  const std::vector<std::string> notes = FreezingNotes(change);
  start.notes.insert(start.notes.end(), notes.begin(), notes.end());
  start.thawed = std::move(change.thawed);
}

// How ranks divide the work; as by default where a checkpoint does not say.
std::string MeshName(const MeshConfig& mesh, int ranks) {
  const int pipeline = std::max(1, mesh.pipeline());
  const int tensor = std::max(1, mesh.tensor());
  const MeshConfig::Zero zero = mesh.zero() == MeshConfig::ZERO_UNSPECIFIED ? MeshConfig::NONE : mesh.zero();
  return absl::StrCat("pipeline ", pipeline, ", data ", ranks / (pipeline * tensor), ", tensor ", tensor, ", zero ",
                      MeshConfig::Zero_Name(zero), ", ", std::max(1, mesh.micro_batches()), " micro-batches");
}

// What of a run does not continue on another mesh as it would have on the same.
void NoteRanks(const TrainingState& training, const MeshConfig& before, int world_size, Start& start) {
  const int saved = SavedGenerators(training);
  const std::string was = MeshName(before, saved);
  const std::string is = MeshName(start.config.mesh(), world_size);
  if (saved != world_size) {
    start.notes.push_back(absl::StrCat(
        "saved by ", saved, saved == 1 ? " rank" : " ranks", ", continued by ", world_size,
        ": weights, optimizer state, schedule and data position continue exactly; the random generators start anew "
        "from the seed and the step, and sums over ranks round differently"));
  } else if (was != is) {
    start.notes.push_back(absl::StrCat(
        "saved by ", saved, saved == 1 ? " rank" : " ranks", " as ", was, ", continued as ", is,
        ": weights, optimizer state, schedule and data position continue exactly; each rank has its random "
        "generator, but other parts of model and batch, and sums round differently"));
  }
}

absl::Status Resume(const ConfigLayers& layers, bool full, const JobRanks& ranks, Start& start) {
  const CheckpointMetadata& metadata = start.checkpoint->metadata;
  const absl::optional<CheckpointRef> named = CheckpointRefOf(start.path);
  if (named.has_value() && metadata.training().step() != named->step) {
    // Chosen by its name, continued by what is in it: somebody renamed or copied it.
    return MakeError(ErrorKind::kAmbiguous,
                     absl::StrCat("its name says step ", named->step, ", its manifest step ",
                                  metadata.training().step(), "; give it the name of its step, or move it away"));
  }
  WAYPOINT_ASSIGN_OR_RETURN(const models::DecoderConfig model, ModelOf(metadata));
  WAYPOINT_ASSIGN_OR_RETURN(TrainConfig stored, TrainerConfigOf(metadata));

  TrainConfig base;
  if (full) {
    base = stored;
    ClearConsents(base);
  }
  *base.mutable_model() = model;
  WAYPOINT_RETURN_IF_ERROR(Finish(layers, base, ranks, start));
  NoteRanks(metadata.training(), stored.mesh(), ranks.world_size(), start);

  std::vector<std::string> differences = models::CompareArchitecture(model, start.config.model());
  if (stored.dtype() != start.config.dtype()) {
    differences.push_back(absl::StrCat("dtype: ", stored.dtype(), " != ", start.config.dtype()));
  }
  if (!differences.empty()) {
    return MakeListError(
        ErrorKind::kConfig,
        "the run's checkpoint and the config describe different models (checkpoint != config):", differences,
        "undo that, or start in another `output` with this checkpoint as pretrained.path");
  }
  for (const std::string& difference : CompareConfigs(stored, start.config)) {
    start.notes.push_back(absl::StrCat("differs from the run so far: ", difference));
  }
  NoteFreezing(stored, start);
  return absl::OkStatus();
}

// Weights that no parameter of the model takes: dropped silently, the run would train another model than its user
// thinks.  Names decide, on the whole manifest, so that all ranks come to one answer; shapes are the restore's
// business.
absl::Status CheckAllTaken(const Manifest& stored, const models::DecoderConfig& model,
                           const std::vector<std::string>& differences) {
  constexpr size_t kSpelledOut = 10;
  WAYPOINT_ASSIGN_OR_RETURN(const Manifest parameters, models::ParameterManifest(model, DType::kF32));
  std::vector<std::string> left;
  for (const TensorMeta& tensor : stored.tensors()) {
    if (!IsOptimizerState(tensor.name) && parameters.Find(tensor.name) < 0) {
      left.push_back(absl::StrCat("\"", tensor.name, "\""));
    }
  }
  if (left.empty()) {
    return absl::OkStatus();
  }
  const size_t shown = std::min(left.size(), kSpelledOut);
  return MakeListError(
      ErrorKind::kExtra,
      absl::StrCat("the model takes ", stored.size() - static_cast<int64_t>(left.size()), " of its ", stored.size(),
                   " tensors and has no place for ", absl::StrJoin(left.begin(), left.begin() + shown, ", "),
                   left.size() > shown ? absl::StrCat(" and ", left.size() - shown, " more") : "",
                   "; set `model` so that it takes them all", differences.empty() ? "" : " (pretrained != config):"),
      differences);
}

// The checkpoint that pretrained.path means, the same on all ranks: a run that goes on publishes new ones at any time.
absl::StatusOr<FoundCheckpoint> FindPretrained(FileSystem& fs, const TrainConfig& config, const JobRanks& ranks) {
  const Pretrained& options = config.pretrained();
  LocalCoordinator alone;
  Coordinator& coordinator = ranks.coordinator == nullptr ? alone : *ranks.coordinator;
  absl::StatusOr<FoundCheckpoint> found = FindCheckpoint(fs, options.path(), options.format());
  const absl::StatusOr<std::string> path = found.ok() ? found->path : absl::StatusOr<std::string>(found.status());
  WAYPOINT_ASSIGN_OR_RETURN(const std::vector<std::string> paths,
                            coordinator.AllGatherIfOk("pretrained.path", path, CheckpointTimeout(config)));
  found->path = paths[0];
  WAYPOINT_ASSIGN_OR_RETURN(found->format, FindFormat(fs, found->path, options.format()));
  return found;
}

absl::Status StartPretrained(FileSystem& fs, const ConfigLayers& layers, const TrainConfig& own, const JobRanks& ranks,
                             Start& start) {
  Pretrained options = own.pretrained();
  start.kind = StartKind::kPretrained;
  start.path = options.path();
  if (!options.has_load_config()) {
    options.set_load_config(Pretrained::MODEL);
  }
  WAYPOINT_ASSIGN_OR_RETURN(const FoundCheckpoint found, FindPretrained(fs, own, ranks));
  CheckpointFormat* const format = found.format;
  start.path = found.path;
  start.notes.insert(start.notes.end(), found.notes.begin(), found.notes.end());
  if (options.optimizer_state() && !format->supports_optimizer_state()) {
    return MakeError(ErrorKind::kRequest, absl::StrCat("format \"", format->name(),
                                                       "\" has no optimizer state; unset pretrained.optimizer_state"));
  }
  LoadOptions load;
  load.carry_unknown = options.carry_unknown();
  load.format_options = {options.format_options().begin(), options.format_options().end()};
  load.strip_prefixes = {options.strip_prefix().begin(), options.strip_prefix().end()};
  WAYPOINT_ASSIGN_OR_RETURN(start.checkpoint, format->Open(fs, found.path, load));
  if (ranks.coordinator == nullptr || ranks.coordinator->rank() == 0) {
    WAYPOINT_RETURN_IF_ERROR(CheckAssets(fs, start.checkpoint->assets));
  }
  start.notes.insert(start.notes.end(), start.checkpoint->notes.begin(), start.checkpoint->notes.end());
  const CheckpointMetadata& metadata = start.checkpoint->metadata;
  WAYPOINT_ASSIGN_OR_RETURN(const models::DecoderConfig model, ModelOf(metadata));

  TrainConfig base;
  if (options.load_config() == Pretrained::FULL) {
    WAYPOINT_ASSIGN_OR_RETURN(base, TrainerConfigOf(metadata));
    base.clear_pretrained();
    base.clear_output();
    ClearConsents(base);
  }
  if (options.load_config() != Pretrained::NONE) {
    *base.mutable_model() = model;
  }
  WAYPOINT_RETURN_IF_ERROR(Finish(layers, base, ranks, start));
  const std::vector<std::string> differences = models::CompareArchitecture(model, start.config.model());
  if (start.config.pretrained().model_weights()) {
    WAYPOINT_RETURN_IF_ERROR(CheckAllTaken(start.checkpoint->tensors->manifest(), start.config.model(), differences));
  }
  for (const std::string& difference : differences) {
    start.notes.push_back(absl::StrCat("model differs from pretrained (pretrained != config): ", difference));
  }
  if (start.config.pretrained().optimizer_state()) {
    // Without a config it is another trainer's: its optimizer state must be complete.
    const bool known = !metadata.training().trainer_config().empty();
    WAYPOINT_ASSIGN_OR_RETURN(const TrainConfig stored, known ? TrainerConfigOf(metadata) : TrainConfig());
    NoteFreezing(stored, start);
  }
  return absl::OkStatus();
}

}  // namespace

absl::string_view StartKindName(StartKind kind) {
  switch (kind) {
    case StartKind::kRandom:
      return "random weights";
    case StartKind::kPretrained:
      return "pretrained";
    case StartKind::kResume:
      return "resume";
  }
  return "";
}

std::string CheckpointDirectory(const TrainConfig& config) { return JoinPath(config.output(), "checkpoint"); }

std::string ExportDirectory(const TrainConfig& config) {
  return JoinPath(JoinPath(config.output(), "export"), config.export_().format());
}

std::string GeneratorKey(int rank, int world_size) {
  return world_size == 1 ? kCpuGenerator : absl::StrCat(kCpuGenerator, "/", rank);
}

int SavedGenerators(const TrainingState& training) {
  int saved = 0;
  for (const auto& entry : training.rng_states()) {
    saved += entry.first == kCpuGenerator || absl::StartsWith(entry.first, absl::StrCat(kCpuGenerator, "/")) ? 1 : 0;
  }
  return saved;
}

absl::Status CheckData(const DataRecord& data, Start& start) {
  if (start.kind != StartKind::kResume) {
    return absl::OkStatus();
  }
  const TrainingState& training = start.checkpoint->metadata.training();
  WAYPOINT_ASSIGN_OR_RETURN(const TrainConfig stored, TrainerConfigOf(start.checkpoint->metadata));
  auto notes = CompareData(training, stored.data(), data, start.config.data());
  WAYPOINT_RETURN_IF_ERROR(Annotate(notes.status(), absl::StrCat("resume from \"", start.path, "\"")));
  start.notes.insert(start.notes.end(), notes->begin(), notes->end());
  return absl::OkStatus();
}

absl::StatusOr<Start> ResolveStart(FileSystem& fs, const ConfigLayers& layers, const JobRanks& ranks,
                                   std::vector<DamagedCheckpoint> damaged) {
  // What the user says, whatever a checkpoint may add.
  const TrainConfig own = layers.Merged({});
  Start start;
  start.damaged = std::move(damaged);
  if (!own.output().empty()) {
    WAYPOINT_RETURN_IF_ERROR(OpenNewest(fs, own, ranks, start));
    WAYPOINT_RETURN_IF_ERROR(CheckHistory(fs, own, ranks, start));
    if (start.kind == StartKind::kResume) {
      const bool full = own.pretrained().load_config() == Pretrained::FULL;
      WAYPOINT_RETURN_IF_ERROR(
          Annotate(Resume(layers, full, ranks, start), absl::StrCat("resume from \"", start.path, "\"")));
      if (own.start_over()) {
        start.notes.push_back(absl::StrCat("start_over: the run has a whole checkpoint, and continues from \"",
                                           start.path, "\"; move it away to begin anew"));
      }
      return start;
    }
  }
  if (!own.pretrained().path().empty()) {
    WAYPOINT_RETURN_IF_ERROR(Annotate(StartPretrained(fs, layers, own, ranks, start),
                                      absl::StrCat("start from \"", own.pretrained().path(), "\"")));
    return start;
  }
  WAYPOINT_RETURN_IF_ERROR(Finish(layers, {}, ranks, start));
  return start;
}

}  // namespace waypoint::engine
