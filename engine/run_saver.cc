#include "engine/run_saver.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/registry.h"
#include "checkpoint/base/status_macros.h"

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
  return options;
}

}  // namespace

bool OnInterval(int64_t step, int64_t interval) { return interval > 0 && step % interval == 0; }

RunSaver::RunSaver(FileSystem& fs, const Start& start) : fs_(fs), config_(start.config) {
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

absl::StatusOr<SaveReport> RunSaver::SaveCheckpoint(const TrainState& state) {
  WAYPOINT_ASSIGN_OR_RETURN(const std::unique_ptr<TensorSource> source, NewLiveSource(state.Tensors()));
  CheckpointerOptions options;
  options.retention = RetentionOf(config_.checkpoint());
  CheckpointRoot root(fs_, CheckpointDirectory(config_));
  absl::StatusOr<SaveReport> report = root.Save(options, Metadata(state), *source, assets_);
  if (!report.ok()) {
    return Annotate(report.status(), absl::StrCat("checkpoint of step ", state.step));
  }
  if (!assets_.empty()) {
    // They may have lain in a checkpoint that is deleted now, or will be.
    WAYPOINT_ASSIGN_OR_RETURN(CheckpointFormat * format, FindFormat(fs_, report->checkpoint.path, options.format));
    WAYPOINT_ASSIGN_OR_RETURN(OpenedCheckpoint saved, format->Open(fs_, report->checkpoint.path, {}));
    assets_ = std::move(saved.assets);
  }
  return report;
}

absl::StatusOr<SaveReport> RunSaver::Export(const TrainState& state) {
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
