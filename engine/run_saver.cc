#include "engine/run_saver.h"

#include <algorithm>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/registry.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/torch/live_memory.h"
#include "engine/run_history.h"
#include "models/decoder/parameters.h"

namespace waypoint::engine {
namespace {

template <typename Schedule>
Retention RetentionOf(const Schedule& schedule) {
  Retention retention;
  retention.interval = schedule.interval();
  retention.keep = schedule.keep();
  retention.keep_every = schedule.keep_every();
  return retention;
}

// Tensors that are planned with, and are nowhere.
class UnreadSource : public TensorSource {
 public:
  explicit UnreadSource(Manifest manifest) : manifest_(std::move(manifest)) {}

  const Manifest& manifest() const override { return manifest_; }
  absl::Status Read(absl::Span<const ReadRequest>) override { return absl::InternalError("a plan read tensors"); }

 private:
  const Manifest manifest_;
};

SaveOptions ExportOptions(const ExportSchedule& schedule) {
  SaveOptions options;
  options.optimizer_state = false;
  options.weights_dtype = DTypeFromTorchName(schedule.dtype());  // kInvalid, "as it is", for "keep"
  options.format_options = {schedule.format_options().begin(), schedule.format_options().end()};
  options.drop_unknown = schedule.drop_unknown();
  return options;
}

// What the checkpoint says, with what the config says in its place.
ModelFacts FactsOf(const Start& start) {
  ModelFacts facts;
  if (start.checkpoint.has_value()) {
    facts = start.checkpoint->metadata.facts();
  }
  const ModelFacts& said = start.config.describe();
  if (said.eos_token_id_size() > 0) {
    facts.clear_eos_token_id();
  }
  facts.MergeFrom(said);
  facts.set_trained_positions(std::max(facts.trained_positions(), start.config.data().sequence_length()));
  return facts;
}

SnapshotMethod MethodOf(CheckpointSchedule::Async async) {
  switch (async) {
    case CheckpointSchedule::LAZY:
      return SnapshotMethod::kLazy;
    case CheckpointSchedule::WRITE_PROTECT:
      return SnapshotMethod::kWriteProtect;
    default:
      return SnapshotMethod::kCopy;
  }
}

}  // namespace

bool OnInterval(int64_t step, int64_t interval) { return interval > 0 && step % interval == 0; }

RunSaver::RunSaver(FileSystem& fs, const Start& start, Coordinator& coordinator, Exchange* exchange)
    : fs_(fs),
      coordinator_(coordinator),
      exchange_(exchange),
      config_(start.config),
      timeout_(CheckpointTimeout(config_)),
      resumed_(start.kind == StartKind::kResume ? start.path : ""),
      damaged_(start.damaged),
      root_(fs, CheckpointDirectory(config_)) {
  if (start.checkpoint.has_value()) {
    carried_.set_external_format(start.checkpoint->metadata.external_format());
    *carried_.mutable_external_configs() = start.checkpoint->metadata.external_configs();
    carried_.set_external_dtype(start.checkpoint->metadata.external_dtype());
    assets_ = start.checkpoint->assets;
    const TrainingState& training = start.checkpoint->metadata.training();
    const bool with_optimizer = start.kind == StartKind::kResume || config_.pretrained().optimizer_state();
    if (with_optimizer && training.has_loss_scaler()) {
      *carried_.mutable_training()->mutable_loss_scaler() = training.loss_scaler();
    }
  }
  if (carried_.external_format().empty()) {
    carried_.set_external_format(config_.export_().format());
  }
  *carried_.mutable_facts() = FactsOf(start);
  if (!start.data.xxh3().empty()) {
    *carried_.mutable_training()->mutable_data() = start.data;
  }
  carried_.mutable_model_config()->PackFrom(config_.model());
  carried_.set_producer("waypoint train");
}

absl::Status RunSaver::CheckRanks(absl::string_view field, const CheckpointFormat& format) const {
  if (coordinator_.world_size() == 1 || format.written_by_many_ranks()) {
    return absl::OkStatus();
  }
  return MakeError(ErrorKind::kUnsupported,
                   absl::StrCat(field, ": format \"", format.name(), "\" is written by one rank, this job has ",
                                coordinator_.world_size(),
                                "; save as \"distributed\" and convert the checkpoints with //tools:convert"));
}

void RunSaver::SetRanks(SaveOptions& options) const {
  options.coordination_timeout = timeout_;
  if (coordinator_.world_size() > 1) {
    options.coordinator = &coordinator_;
    options.exchange = exchange_;
  }
}

absl::StatusOr<std::vector<std::string>> RunSaver::Prepare(const TrainState& state) {
  std::vector<std::string> notes;
  Registry<CheckpointFormat>& formats = Registry<CheckpointFormat>::Global();
  const CheckpointFormat* const format = formats.Find(config_.checkpoint().format());
  if (format == nullptr || !format->supports_optimizer_state()) {
    return MakeError(
        ErrorKind::kRequest,
        absl::StrCat(
            "checkpoint.format: ", format == nullptr ? "there is no format \"" : "no optimizer state in format \"",
            config_.checkpoint().format(), "\" (linked: ", absl::StrJoin(formats.Names(), ", "), ")"));
  }
  WAYPOINT_RETURN_IF_ERROR(CheckRanks("checkpoint.format", *format));
  if (config_.checkpoint().async() == CheckpointSchedule::NONE) {
    return notes;
  }
  AsyncSaveOptions options;
  options.method = MethodOf(config_.checkpoint().async());
  options.max_snapshot_bytes = config_.checkpoint().max_snapshot_bytes();
  const LiveState tensors = state.Tensors();
  if (options.method == SnapshotMethod::kWriteProtect) {
    WAYPOINT_ASSIGN_OR_RETURN(const auto arena, SnapshotArena::Create(ArenaBytesFor(tensors), {}));
    WAYPOINT_RETURN_IF_ERROR(MoveToArena(tensors, arena));
    if (arena->guard() == nullptr) {
      notes.push_back(absl::StrCat("checkpoint.async: COPY instead of WRITE_PROTECT: ", arena->refusal()));
    }
    options.arenas = {arena};
  }
  async_ = absl::make_unique<AsyncSaver>(std::move(options));
  WAYPOINT_ASSIGN_OR_RETURN(const MemoryState memory, LiveMemory(tensors));
  WAYPOINT_RETURN_IF_ERROR(Annotate(async_->Prepare(memory), "checkpoint.async"));
  return notes;
}

CheckpointMetadata RunSaver::Metadata(const TrainState& state, bool scheduled) const {
  CheckpointMetadata metadata = carried_;
  TrainingState& training = *metadata.mutable_training();
  training = state.Describe();
  if (carried_.training().has_loss_scaler()) {
    *training.mutable_loss_scaler() = carried_.training().loss_scaler();
  }
  if (carried_.training().has_data()) {
    *training.mutable_data() = carried_.training().data();
  }
  training.set_scheduled(scheduled);
  (*training.mutable_metrics())[kLossMetric] = state.last_loss;
  return metadata;
}

absl::StatusOr<CheckpointMetadata> RunSaver::CheckpointMetadataOf(const TrainState& state) {
  CheckpointMetadata metadata = Metadata(state, CheckpointDue(state.step));
  TrainingState generators;
  *generators.mutable_rng_states() = metadata.training().rng_states();
  WAYPOINT_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                            coordinator_.AllGather("random generators", generators.SerializeAsString(), timeout_));
  for (size_t rank = 1; rank < all.size() && coordinator_.rank() == 0; ++rank) {
    TrainingState other;
    if (!other.ParseFromString(all[rank])) {
      return MakeError(ErrorKind::kRank, absl::StrCat("rank ", rank, " sent no TrainingState message"));
    }
    metadata.mutable_training()->mutable_rng_states()->insert(other.rng_states().begin(), other.rng_states().end());
  }
  return metadata;
}

bool RunSaver::CheckpointDue(int64_t step) const { return OnInterval(step, config_.checkpoint().interval()); }

bool RunSaver::ExportDue(int64_t step) const {
  return config_.has_export_() && (OnInterval(step, config_.export_().interval()) || step == config_.steps());
}

absl::StatusOr<std::vector<std::string>> RunSaver::PlanExport(const CheckpointMetadata& metadata, TensorSource& source,
                                                              const SaveOptions& options) const {
  const std::string& name = config_.export_().format();
  CheckpointFormat* const format = Registry<CheckpointFormat>::Global().Find(name);
  if (format == nullptr) {
    return MakeError(ErrorKind::kRequest, absl::StrCat("export.format: no format \"", name, "\" is linked"));
  }
  WAYPOINT_RETURN_IF_ERROR(CheckRanks("export.format", *format));
  std::vector<std::string> notes;
  const auto writer = CreateWriter(*format, fs_, "", metadata, source, assets_, options, &notes);
  const std::string context = absl::StrCat("export as \"", name, "\"");
  if (!writer.ok()) {
    return Annotate(writer.status(), context);
  }
  for (std::string& note : notes) {
    note = absl::StrCat(context, ": ", note);
  }
  return notes;
}

absl::StatusOr<std::vector<std::string>> RunSaver::CheckExport(const TrainState& state) const {
  if (!config_.has_export_()) {
    return std::vector<std::string>();
  }
  WAYPOINT_ASSIGN_OR_RETURN(const std::unique_ptr<TensorSource> source, NewLiveSource(state.Weights()));
  SaveOptions options = ExportOptions(config_.export_());
  SetRanks(options);
  return PlanExport(Metadata(state, /*scheduled=*/true), *source, options);
}

absl::StatusOr<std::vector<std::string>> RunSaver::CheckExport() const {
  if (!config_.has_export_()) {
    return std::vector<std::string>();
  }
  WAYPOINT_ASSIGN_OR_RETURN(
      Manifest weights,
      models::ParameterManifest(config_.model(), config_.dtype() == "bfloat16" ? DType::kBF16 : DType::kF32));
  UnreadSource source(std::move(weights));
  return PlanExport(carried_, source, ExportOptions(config_.export_()));
}

CheckpointerOptions RunSaver::Options() const {
  CheckpointerOptions options;
  options.format = config_.checkpoint().format();
  SetRanks(options.save);
  options.retention = RetentionOf(config_.checkpoint());
  options.retention.keep_best = config_.checkpoint().keep_best();
  options.retention.best_metric = config_.checkpoint().best_metric();
  options.retention.keep_unscheduled = config_.checkpoint().keep_signal_saves();
  return options;
}

absl::Status RunSaver::Published(AsyncSaveReport report) {
  if (coordinator_.rank() == 0) {
    if (const absl::Status marked = MarkSaved(fs_, CheckpointDirectory(config_)); !marked.ok()) {
      report.save.warnings.push_back(absl::StrCat("mark of a run without checkpoints stays: ", marked.message()));
    }
  }
  if (!assets_.empty()) {
    // They may have lain in a checkpoint that is deleted now, or will be.
    const std::string& path = report.save.checkpoint.path;
    WAYPOINT_ASSIGN_OR_RETURN(CheckpointFormat * format, FindFormat(fs_, path, Options().format));
    WAYPOINT_ASSIGN_OR_RETURN(OpenedCheckpoint saved, format->Open(fs_, path, {}));
    assets_ = std::move(saved.assets);
  }
  saved_.push_back(std::move(report));
  return absl::OkStatus();
}

absl::Status RunSaver::Hold(std::vector<std::string>* changes) {
  const absl::Status held = coordinator_.rank() == 0 ? HoldRoot(changes) : absl::OkStatus();
  return coordinator_.Agree("lock of the run", held, timeout_);
}

absl::Status RunSaver::HoldRoot(std::vector<std::string>* changes) {
  WAYPOINT_RETURN_IF_ERROR(root_.Hold());
  absl::Status status = TakeOver(changes);
  if (!status.ok()) {
    root_.Release();
  }
  return status;
}

absl::Status RunSaver::TakeOver(std::vector<std::string>* changes) {
  WAYPOINT_ASSIGN_OR_RETURN(std::vector<CheckpointRef> newer, root_.List());
  const auto damaged = [this](const CheckpointRef& ref) {
    return std::any_of(damaged_.begin(), damaged_.end(),
                       [&ref](const DamagedCheckpoint& damaged) { return damaged.path == ref.path; });
  };
  newer.erase(std::remove_if(newer.begin(), newer.end(), damaged), newer.end());
  const std::string latest = newer.empty() ? "" : newer.back().path;
  if (latest != resumed_) {
    return MakeError(ErrorKind::kLocked,
                     absl::StrCat("another job saved meanwhile: this one starts from ",
                                  resumed_.empty() ? "no checkpoint of the run" : absl::StrCat("\"", resumed_, "\""),
                                  ", the newest ", latest.empty() ? "is gone" : absl::StrCat("is \"", latest, "\""),
                                  "; start again"));
  }
  for (const DamagedCheckpoint& aside : damaged_) {
    WAYPOINT_ASSIGN_OR_RETURN(const std::string path, root_.SetAside(aside.path));
    changes->push_back(absl::StrCat("damaged \"", aside.path, "\" is now \"", path, "\""));
  }
  const std::string directory = CheckpointDirectory(config_);
  return resumed_.empty() ? MarkUnsaved(fs_, directory) : MarkSaved(fs_, directory);
}

absl::Status RunSaver::SaveCheckpoint(const TrainState& state, bool last) {
  // First, because it says where the assets are now.
  absl::Status before = Finish();
  if (!before.ok() && !last) {
    return before;
  }
  // Keeps the first.
  before.Update(BeginSave(state));
  return before;
}

absl::Status RunSaver::BeginSave(const TrainState& state) {
  const std::string context = absl::StrCat("checkpoint of step ", state.step);
  if (async_ == nullptr) {
    WAYPOINT_ASSIGN_OR_RETURN(const std::unique_ptr<TensorSource> source, NewLiveSource(state.Tensors()));
    AsyncSaveReport report;
    WAYPOINT_ASSIGN_OR_RETURN(const CheckpointMetadata metadata, CheckpointMetadataOf(state));
    if (const absl::Status synced = before_write_(); !synced.ok()) {
      return Annotate(CheckpointRoot::GiveUp(Options(), metadata, synced), context);
    }
    const auto saved = root_.Save(Options(), metadata, *source, assets_);
    if (!saved.ok()) {
      return Annotate(saved.status(), context);
    }
    report.save = *saved;
    return Published(std::move(report));
  }
  WAYPOINT_ASSIGN_OR_RETURN(const MemoryState memory, LiveMemory(state.Tensors()));
  WAYPOINT_ASSIGN_OR_RETURN(CheckpointMetadata metadata, CheckpointMetadataOf(state));
  const SnapshotWriter save = SaveInto(root_, Options(), std::move(metadata), assets_);
  const auto write = [save, sync = before_write_](const absl::StatusOr<TensorSource*>& snapshot) {
    const absl::Status synced = snapshot.ok() ? sync() : absl::OkStatus();
    return synced.ok() ? save(snapshot) : save(synced);
  };
  return Annotate(async_->Save(memory, write).status(), context);
}

absl::Status RunSaver::Fence() { return async_ == nullptr ? absl::OkStatus() : async_->Fence(); }

absl::Status RunSaver::Finish() {
  if (async_ == nullptr) {
    return absl::OkStatus();
  }
  absl::Status status = async_->Wait();
  for (AsyncSaveReport& report : async_->TakeFinished()) {
    status.Update(Published(std::move(report)));
  }
  return status;
}

absl::Status RunSaver::Release(std::vector<std::string>* warnings) {
  const absl::Status status = Finish();
  for (std::string& warning : root_.Release()) {
    warnings->push_back(std::move(warning));
  }
  return status;
}

std::vector<AsyncSaveReport> RunSaver::TakeSaved() { return std::exchange(saved_, {}); }

absl::StatusOr<SaveReport> RunSaver::Export(const TrainState& state) {
  WAYPOINT_RETURN_IF_ERROR(Finish());
  WAYPOINT_ASSIGN_OR_RETURN(const std::unique_ptr<TensorSource> source, NewLiveSource(state.Weights()));
  CheckpointerOptions options;
  options.format = config_.export_().format();
  options.save = ExportOptions(config_.export_());
  SetRanks(options.save);
  options.retention = RetentionOf(config_.export_());
  CheckpointRoot root(fs_, ExportDirectory(config_));
  const bool scheduled = OnInterval(state.step, config_.export_().interval());
  absl::StatusOr<SaveReport> report = root.Save(options, Metadata(state, scheduled), *source, assets_);
  if (!report.ok()) {
    return Annotate(report.status(), absl::StrCat("export of step ", state.step, " as \"", options.format, "\""));
  }
  return report;
}

absl::StatusOr<bool> RunSaver::HasExport(int64_t step) {
  // Rank 0 looks, so that all do the same next.
  const auto look = [&]() -> absl::StatusOr<std::string> {
    if (coordinator_.rank() != 0) {
      return std::string();
    }
    WAYPOINT_ASSIGN_OR_RETURN(const std::vector<CheckpointRef> exports,
                              CheckpointRoot(fs_, ExportDirectory(config_)).List());
    const bool there =
        std::any_of(exports.begin(), exports.end(), [step](const CheckpointRef& ref) { return ref.step == step; });
    return std::string(there ? "there" : "");
  };
  WAYPOINT_ASSIGN_OR_RETURN(const std::vector<std::string> answers,
                            coordinator_.AllGatherIfOk("export of the step", look(), timeout_));
  return !answers[0].empty();
}

}  // namespace waypoint::engine
