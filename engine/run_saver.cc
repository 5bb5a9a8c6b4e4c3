#include "engine/run_saver.h"

#include <algorithm>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/registry.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/torch/live_memory.h"

namespace waypoint::engine {
namespace {

// Without an interval every save is off it, and so kept.
template <typename Schedule>
Retention RetentionOf(const Schedule& schedule) {
  Retention retention;
  if (schedule.interval() > 0) {
    retention.interval = schedule.interval();
    retention.keep = schedule.keep();
    retention.keep_every = schedule.keep_every();
  }
  return retention;
}

SaveOptions ExportOptions(const ExportSchedule& schedule) {
  SaveOptions options;
  options.optimizer_state = false;
  options.weights_dtype = DTypeFromTorchName(schedule.dtype());  // kInvalid, "as it is", for "keep"
  options.format_options = {schedule.format_options().begin(), schedule.format_options().end()};
  return options;
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

RunSaver::RunSaver(FileSystem& fs, const Start& start)
    : fs_(fs),
      config_(start.config),
      resumed_(start.kind == StartKind::kResume ? start.path : ""),
      root_(fs, CheckpointDirectory(config_)) {
  if (start.checkpoint.has_value()) {
    carried_.set_external_format(start.checkpoint->metadata.external_format());
    *carried_.mutable_external_configs() = start.checkpoint->metadata.external_configs();
    assets_ = start.checkpoint->assets;
  }
  if (carried_.external_format().empty()) {
    carried_.set_external_format(config_.export_().format());
  }
  carried_.mutable_model_config()->PackFrom(config_.model());
  carried_.set_producer("waypoint train");
}

absl::StatusOr<std::vector<std::string>> RunSaver::Prepare(const TrainState& state) {
  std::vector<std::string> notes;
  if (config_.checkpoint().async() == CheckpointSchedule::NONE) {
    return notes;
  }
  AsyncSaveOptions options;
  options.method = MethodOf(config_.checkpoint().async());
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
  WAYPOINT_RETURN_IF_ERROR(async_->Prepare(memory));
  return notes;
}

CheckpointMetadata RunSaver::Metadata(const TrainState& state) const {
  CheckpointMetadata metadata = carried_;
  *metadata.mutable_training() = state.Describe();
  return metadata;
}

bool RunSaver::CheckpointDue(int64_t step) const { return OnInterval(step, config_.checkpoint().interval()); }

bool RunSaver::ExportDue(int64_t step) const {
  return config_.has_export_() && (OnInterval(step, config_.export_().interval()) || step == config_.steps());
}

absl::Status RunSaver::CheckExport(const TrainState& state) const {
  if (!config_.has_export_()) {
    return absl::OkStatus();
  }
  const std::string& name = config_.export_().format();
  CheckpointFormat* const format = Registry<CheckpointFormat>::Global().Find(name);
  if (format == nullptr) {
    return MakeError(ErrorKind::kRequest, absl::StrCat("export.format: no format \"", name, "\" is linked"));
  }
  WAYPOINT_ASSIGN_OR_RETURN(const std::unique_ptr<TensorSource> source, NewLiveSource(state.Weights()));
  return Annotate(format->Create(fs_, "", Metadata(state), *source, assets_, ExportOptions(config_.export_())).status(),
                  absl::StrCat("export as \"", name, "\""));
}

CheckpointerOptions RunSaver::Options() const {
  CheckpointerOptions options;
  options.retention = RetentionOf(config_.checkpoint());
  return options;
}

absl::Status RunSaver::Published(AsyncSaveReport report) {
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

absl::Status RunSaver::Hold() {
  WAYPOINT_RETURN_IF_ERROR(root_.Hold());
  const auto latest = root_.Latest();
  absl::Status status = latest.status();
  if (latest.ok() && (latest->has_value() ? (*latest)->path : "") != resumed_) {
    status = MakeError(
        ErrorKind::kLocked,
        absl::StrCat("another job saved meanwhile: this one starts from ",
                     resumed_.empty() ? "no checkpoint of the run" : absl::StrCat("\"", resumed_, "\""),
                     ", the newest ", latest->has_value() ? absl::StrCat("is \"", (*latest)->path, "\"") : "is gone",
                     "; start again"));
  }
  if (!status.ok()) {
    root_.Release();
  }
  return status;
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
    const auto saved = root_.Save(Options(), Metadata(state), *source, assets_);
    if (!saved.ok()) {
      return Annotate(saved.status(), context);
    }
    report.save = *saved;
    return Published(std::move(report));
  }
  WAYPOINT_ASSIGN_OR_RETURN(const MemoryState memory, LiveMemory(state.Tensors()));
  return Annotate(async_->Save(memory, SaveInto(root_, Options(), Metadata(state), assets_)).status(), context);
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
  options.retention = RetentionOf(config_.export_());
  CheckpointRoot root(fs_, ExportDirectory(config_));
  absl::StatusOr<SaveReport> report = root.Save(options, Metadata(state), *source, assets_);
  if (!report.ok()) {
    return Annotate(report.status(), absl::StrCat("export of step ", state.step, " as \"", options.format, "\""));
  }
  return report;
}

absl::StatusOr<bool> RunSaver::HasExport(int64_t step) {
  const std::string directory = ExportDirectory(config_);
  WAYPOINT_ASSIGN_OR_RETURN(const bool started, Exists(fs_, directory));
  if (!started) {
    return false;
  }
  WAYPOINT_ASSIGN_OR_RETURN(const std::vector<CheckpointRef> exports, CheckpointRoot(fs_, directory).List());
  return std::any_of(exports.begin(), exports.end(), [step](const CheckpointRef& ref) { return ref.step == step; });
}

}  // namespace waypoint::engine
