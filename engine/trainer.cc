#include "engine/trainer.h"

#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "ATen/Functions.h"
#include "ATen/Parallel.h"
#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "engine/catch_torch.h"
#include "optimizer/clip.h"
#include "optimizer/schedule.h"

namespace waypoint::engine {
namespace {

// Ranks differ by one step's time at most when they exchange stop flags; data loading and a slow disk are in it.
constexpr absl::Duration kStopTimeout = absl::Minutes(10);

CosineSchedule ScheduleOf(const TrainConfig& config) {
  CosineSchedule schedule;
  schedule.peak = config.optimizer().lr();
  schedule.warmup_steps = config.schedule().warmup_steps();
  schedule.total_steps = config.schedule().decay_steps();
  schedule.minimum_ratio = config.schedule().min_ratio();
  return schedule;
}

int64_t PeakResidentBytes() {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;  // kilobytes on Linux
}

}  // namespace

Trainer::Trainer(Start start, const TrainerOptions& options) : start_(std::move(start)), options_(options) {
  if (options_.coordinator == nullptr) {
    options_.coordinator = &local_;
  }
}

void Trainer::Print(const std::string& line) const {
  if (options_.print) {
    options_.print(line);
  } else {
    absl::FPrintF(stderr, "%s\n", line);
  }
}

absl::StatusOr<std::unique_ptr<Trainer>> Trainer::Create(const ConfigLayers& layers, const TrainerOptions& options) {
  WAYPOINT_ASSIGN_OR_RETURN(Start start, ResolveStart(*options.fs, layers));
  auto trainer = absl::WrapUnique(new Trainer(std::move(start), options));
  const TrainConfig& config = trainer->start_.config;
  for (const std::string& note : trainer->start_.notes) {
    trainer->Print(absl::StrCat("note: ", note));
  }
  at::set_num_threads(config.threads());
  WAYPOINT_ASSIGN_OR_RETURN(trainer->data_, TokenFile::Open(config.data(), config.model().vocab_size()));
  WAYPOINT_RETURN_IF_ERROR(CatchTorch("initial state", [&]() -> absl::Status {
    WAYPOINT_ASSIGN_OR_RETURN(trainer->state_, TrainState::Create(config));
    return Annotate(trainer->state_->Restore(trainer->start_),
                    absl::StrCat(StartKindName(trainer->start_.kind), " from \"", trainer->start_.path, "\""));
  }));
  trainer->saver_ = absl::make_unique<RunSaver>(*options.fs, trainer->start_);
  WAYPOINT_ASSIGN_OR_RETURN(const std::vector<std::string> notes, trainer->saver_->Prepare(*trainer->state_));
  for (const std::string& note : notes) {
    trainer->Print(absl::StrCat("note: ", note));
  }
  // Its files would stay open for the whole run.
  trainer->start_.checkpoint.reset();
  WAYPOINT_RETURN_IF_ERROR(trainer->saver_->CheckExport(*trainer->state_));
  return trainer;
}

absl::Status Trainer::UpdateWeights(StepMetrics& metrics) {
  const double limit = config().optimizer().clip_norm();
  WAYPOINT_ASSIGN_OR_RETURN(
      metrics.grad_norm,
      ClipGradientNorm(state_->model().parameters(), limit > 0 ? limit : std::numeric_limits<double>::infinity()));
  if (!std::isfinite(metrics.grad_norm)) {
    // An update would make every weight NaN, and the next checkpoint worthless.
    return absl::FailedPreconditionError(
        absl::StrCat("gradient norm is ", metrics.grad_norm, " (loss ", metrics.loss,
                     "); lower optimizer.lr, or change data.seed to meet other batches"));
  }
  metrics.lr = LearningRateAt(ScheduleOf(config()), state_->step);
  WAYPOINT_RETURN_IF_ERROR(saver_->Fence());
  WAYPOINT_RETURN_IF_ERROR(state_->optimizer().Step(metrics.lr));
  state_->optimizer().ZeroGradients();
  return absl::OkStatus();
}

absl::StatusOr<StepMetrics> Trainer::Step() {
  const absl::Time begin = absl::Now();
  StepMetrics metrics;
  metrics.step = state_->step + 1;
  WAYPOINT_RETURN_IF_ERROR(CatchTorch(absl::StrCat("step ", metrics.step), [&]() -> absl::Status {
    WAYPOINT_ASSIGN_OR_RETURN(const Batch batch, data_->BatchAt(state_->data_position));
    WAYPOINT_ASSIGN_OR_RETURN(const at::Tensor logits, state_->model().Forward(batch.inputs));
    // In float32 whatever the model's dtype: a sum over the vocabulary loses too much otherwise.
    const at::Tensor loss =
        at::cross_entropy_loss(logits.to(at::kFloat).reshape({-1, logits.size(-1)}), batch.targets.reshape({-1}));
    loss.backward();
    metrics.loss = loss.item<double>();
    return UpdateWeights(metrics);
  }));
  state_->step = metrics.step;
  state_->data_position += data_->tokens_per_batch();
  state_->last_loss = metrics.loss;
  metrics.tokens = state_->data_position;
  metrics.seconds = absl::ToDoubleSeconds(absl::Now() - begin);
  return metrics;
}

void Trainer::LogStep(const StepMetrics& metrics) {
  logged_seconds_ += metrics.seconds;
  logged_tokens_ += data_->tokens_per_batch();
  if (metrics.step % config().log_interval() != 0 && metrics.step != config().steps()) {
    return;
  }
  Print(absl::StrFormat("step %d/%d  loss %.4f  grad norm %.3g  lr %.3g  %.0f tokens/s  %d MiB peak", metrics.step,
                        config().steps(), metrics.loss, metrics.grad_norm, metrics.lr,
                        logged_tokens_ / std::max(logged_seconds_, 1e-9), PeakResidentBytes() >> 20));
  logged_seconds_ = 0;
  logged_tokens_ = 0;
}

absl::StatusOr<bool> Trainer::StopRequested() {
  const bool mine = options_.stop && options_.stop();
  WAYPOINT_ASSIGN_OR_RETURN(const std::vector<std::string> flags,
                            options_.coordinator->AllGather("stop requested", mine ? "1" : "", kStopTimeout));
  return std::any_of(flags.begin(), flags.end(), [](const std::string& flag) { return !flag.empty(); });
}

void Trainer::CollectSaved(TrainReport& report) {
  for (const AsyncSaveReport& saved : saver_->TakeSaved()) {
    report.checkpoints.push_back(saved.save.checkpoint.path);
    Print(absl::StrCat("saved ", saved.save.checkpoint.path));
    if (saved.why != snapshot_note_) {
      // Once, not with every save.
      snapshot_note_ = saved.why;
      if (!saved.why.empty()) {
        Print(absl::StrCat("note: checkpoint.async: ", saved.why));
      }
    }
    PrintWarnings(saved.save.warnings);
  }
}

void Trainer::PrintWarnings(const std::vector<std::string>& warnings) const {
  for (const std::string& warning : warnings) {
    Print(absl::StrCat("warning: ", warning));
  }
}

absl::Status Trainer::SaveCheckpoint(TrainReport& report, bool wait) {
  WAYPOINT_RETURN_IF_ERROR(metrics_->Sync());
  absl::Status status = saver_->SaveCheckpoint(*state_, /*last=*/wait);
  if (wait) {
    status.Update(saver_->Finish());
  }
  CollectSaved(report);
  return status;
}

absl::Status Trainer::Export(TrainReport& report) {
  const auto exported = saver_->Export(*state_);
  CollectSaved(report);
  WAYPOINT_ASSIGN_OR_RETURN(const SaveReport saved, exported);
  report.exports.push_back(saved.checkpoint.path);
  Print(absl::StrCat("exported ", saved.checkpoint.path));
  PrintWarnings(saved.warnings);
  return absl::OkStatus();
}

absl::StatusOr<TrainReport> Trainer::Run() {
  if (options_.coordinator->rank() == 0) {
    WAYPOINT_RETURN_IF_ERROR(saver_->Hold());
  }
  absl::StatusOr<TrainReport> report = RunLocked();
  std::vector<std::string> warnings;
  const absl::Status released = saver_->Release(&warnings);
  if (!released.ok()) {
    // Only after another error; without one, all saves were waited for.
    warnings.insert(warnings.begin(), std::string(released.message()));
  }
  PrintWarnings(warnings);
  return report;
}

absl::StatusOr<TrainReport> Trainer::RunLocked() {
  TrainReport report;
  report.start = start_.kind;
  report.start_path = start_.path;
  report.first_step = state_->step;
  WAYPOINT_RETURN_IF_ERROR(MakeDirectories(PosixFileSystem(), config().output()));
  WAYPOINT_ASSIGN_OR_RETURN(metrics_, MetricsLog::Open(JoinPath(config().output(), "metrics.jsonl"), state_->step));

  int64_t parameters = 0;
  for (const auto& [name, parameter] : state_->model().parameters()) {
    parameters += parameter.numel();
  }
  Print(absl::StrCat("start from ", StartKindName(start_.kind), start_.path.empty() ? "" : " ", start_.path,
                     " at step ", state_->step, ": ", parameters, " parameters in ", config().dtype(), ", ",
                     data_->tokens(), " tokens of data"));
  // A run that was killed between its checkpoint and its export of the same step still owes the export.
  if (start_.kind == StartKind::kResume && saver_->ExportDue(state_->step)) {
    WAYPOINT_ASSIGN_OR_RETURN(const bool exported, saver_->HasExport(state_->step));
    if (!exported) {
      WAYPOINT_RETURN_IF_ERROR(Export(report));
    }
  }
  while (state_->step < config().steps() && !report.stopped) {
    WAYPOINT_ASSIGN_OR_RETURN(const StepMetrics metrics, Step());
    WAYPOINT_RETURN_IF_ERROR(metrics_->Append(metrics));
    LogStep(metrics);
    if (options_.on_step) {
      options_.on_step(metrics);
    }
    WAYPOINT_ASSIGN_OR_RETURN(const bool stop, StopRequested());
    const bool last = state_->step == config().steps();
    report.stopped = stop && !last;
    // The checkpoint first: an export can be made from it, not the other way round.
    if (last || stop || saver_->CheckpointDue(state_->step)) {
      WAYPOINT_RETURN_IF_ERROR(SaveCheckpoint(report, /*wait=*/last || stop));
    }
    if (saver_->ExportDue(state_->step)) {
      WAYPOINT_RETURN_IF_ERROR(Export(report));
    }
  }
  report.last_step = state_->step;
  report.last_loss = state_->last_loss;
  return report;
}

}  // namespace waypoint::engine
