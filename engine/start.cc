#include "engine/start.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/registry.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/checkpointer/checkpointer.h"
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
  WAYPOINT_RETURN_IF_ERROR(models::ValidateConfig(start.config.model()));
  const MeshConfig& mesh = start.config.mesh();
  return models::CheckPart(start.config.model(), {0, mesh.tensor(), 0, mesh.pipeline()});
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

absl::Status Resume(FileSystem& fs, const ConfigLayers& layers, const std::string& path, bool full,
                    const JobRanks& ranks, Start& start) {
  start.kind = StartKind::kResume;
  start.path = path;
  WAYPOINT_ASSIGN_OR_RETURN(CheckpointFormat * format, DetectFormat(fs, path));
  WAYPOINT_ASSIGN_OR_RETURN(start.checkpoint, format->Open(fs, path, {}));
  const CheckpointMetadata& metadata = start.checkpoint->metadata;
  const absl::optional<CheckpointRef> named = CheckpointRefOf(path);
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
  }
  *base.mutable_model() = model;
  WAYPOINT_RETURN_IF_ERROR(Finish(layers, base, ranks, start));
  NoteRanks(metadata.training(), stored.mesh(), ranks.world_size(), start);

  std::vector<std::string> differences = models::CompareArchitecture(model, start.config.model());
  if (stored.dtype() != start.config.dtype()) {
    differences.push_back(absl::StrCat("dtype: ", stored.dtype(), " != ", start.config.dtype()));
  }
  if (!differences.empty()) {
    return MakeError(
        ErrorKind::kConfig,
        absl::StrCat("the run's checkpoint and the config describe different models (checkpoint != config):\n  ",
                     absl::StrJoin(differences, "\n  "),
                     "\nundo that, or start in another `output` with this checkpoint as pretrained.path"));
  }
  for (const std::string& difference : CompareConfigs(stored, start.config)) {
    start.notes.push_back(absl::StrCat("differs from the run so far: ", difference));
  }
  return absl::OkStatus();
}

absl::Status StartPretrained(FileSystem& fs, const ConfigLayers& layers, Pretrained options, const JobRanks& ranks,
                             Start& start) {
  start.kind = StartKind::kPretrained;
  start.path = options.path();
  if (!options.has_load_config()) {
    options.set_load_config(Pretrained::MODEL);
  }
  WAYPOINT_ASSIGN_OR_RETURN(CheckpointFormat * format, FindFormat(fs, options.path(), options.format()));
  if (options.optimizer_state() && !format->supports_optimizer_state()) {
    return MakeError(ErrorKind::kRequest, absl::StrCat("format \"", format->name(),
                                                       "\" has no optimizer state; unset pretrained.optimizer_state"));
  }
  LoadOptions load;
  load.carry_unknown = options.carry_unknown();
  load.format_options = {options.format_options().begin(), options.format_options().end()};
  WAYPOINT_ASSIGN_OR_RETURN(start.checkpoint, format->Open(fs, options.path(), load));
  start.notes = start.checkpoint->notes;
  const CheckpointMetadata& metadata = start.checkpoint->metadata;
  WAYPOINT_ASSIGN_OR_RETURN(const models::DecoderConfig model, ModelOf(metadata));

  TrainConfig base;
  if (options.load_config() == Pretrained::FULL) {
    WAYPOINT_ASSIGN_OR_RETURN(base, TrainerConfigOf(metadata));
    base.clear_pretrained();
    base.clear_output();
  }
  if (options.load_config() != Pretrained::NONE) {
    *base.mutable_model() = model;
  }
  WAYPOINT_RETURN_IF_ERROR(Finish(layers, base, ranks, start));
  for (const std::string& difference : models::CompareArchitecture(model, start.config.model())) {
    start.notes.push_back(absl::StrCat("model differs from pretrained (pretrained != config): ", difference));
  }
  return absl::OkStatus();
}

// Rank 0's newest checkpoint; empty when there is none.
absl::StatusOr<std::string> LatestOf(FileSystem& fs, const TrainConfig& config, const JobRanks& ranks) {
  LocalCoordinator alone;
  Coordinator& coordinator = ranks.coordinator == nullptr ? alone : *ranks.coordinator;
  const auto find = [&]() -> absl::StatusOr<std::string> {
    if (coordinator.rank() != 0) {
      return std::string();
    }
    CheckpointRoot root(fs, CheckpointDirectory(config));
    WAYPOINT_ASSIGN_OR_RETURN(const absl::optional<CheckpointRef> latest, root.Latest());
    return latest.has_value() ? latest->path : std::string();
  };
  WAYPOINT_ASSIGN_OR_RETURN(const std::vector<std::string> paths,
                            coordinator.AllGatherIfOk("newest checkpoint", find(), CheckpointTimeout(config)));
  return paths[0];
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

absl::StatusOr<Start> ResolveStart(FileSystem& fs, const ConfigLayers& layers, const JobRanks& ranks) {
  // What the user says, whatever a checkpoint may add.
  const TrainConfig own = layers.Merged({});
  Start start;
  if (!own.output().empty()) {
    WAYPOINT_ASSIGN_OR_RETURN(const std::string latest, LatestOf(fs, own, ranks));
    if (!latest.empty()) {
      const bool full = own.pretrained().load_config() == Pretrained::FULL;
      WAYPOINT_RETURN_IF_ERROR(
          Annotate(Resume(fs, layers, latest, full, ranks, start), absl::StrCat("resume from \"", latest, "\"")));
      return start;
    }
  }
  if (!own.pretrained().path().empty()) {
    WAYPOINT_RETURN_IF_ERROR(Annotate(StartPretrained(fs, layers, own.pretrained(), ranks, start),
                                      absl::StrCat("start from \"", own.pretrained().path(), "\"")));
    return start;
  }
  WAYPOINT_RETURN_IF_ERROR(Finish(layers, {}, ranks, start));
  return start;
}

}  // namespace waypoint::engine
