#include "engine/trainer.h"

#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "ATen/Functions.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/base/visible_text.h"
#include "checkpoint/tensor/box.h"
#include "engine/catch_torch.h"
#include "engine/frozen.h"
#include "engine/learning_rate.h"
#include "engine/pipeline.h"
#include "engine/run_history.h"
#include "engine/share_failure.h"
#include "models/decoder/sharding.h"
#include "optimizer/clip.h"

namespace waypoint::engine {
namespace {

// For ranks to tell why they end.  A stopped one does not come: this is how long the others live on for it.
constexpr absl::Duration kLastWordsTimeout = absl::Seconds(10);

int64_t PeakResidentBytes() {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;  // kilobytes on Linux
}

}  // namespace

void Trainer::Print(const std::string& line) const {
  if (first_rank()) {
    PrintMine(line);
  }
}

void Trainer::PrintMine(const std::string& line) const {
  const std::string named =
      VisibleText(first_rank() ? line : absl::StrCat("rank ", options_.coordinator->rank(), ": ", line));
  if (options_.print) {
    options_.print(named);
  } else {
    absl::FPrintF(stderr, "%s\n", named);
  }
}

absl::Status Trainer::UpdateWeights(StepMetrics& metrics) {
  WAYPOINT_RETURN_IF_ERROR(state_->shards().ReduceGradients());
  WAYPOINT_ASSIGN_OR_RETURN(const double squares, state_->shards().SumOfSquaredGradients());
  metrics.grad_norm = std::sqrt(squares);
  if (!std::isfinite(metrics.grad_norm)) {
    // An update would make every weight NaN, and the next checkpoint worthless.
    return MakeError(ErrorKind::kDiverged,
                     absl::StrCat("step ", metrics.step, ": the norm of the gradients is ", metrics.grad_norm,
                                  " (loss ", metrics.loss, "), nothing was updated; lower optimizer.lr or set ",
                                  "optimizer.clip_norm, or change data.seed to meet other batches"));
  }
  if (const double limit = config().optimizer().clip_norm(); limit > 0) {
    WAYPOINT_RETURN_IF_ERROR(ScaleGradients(state_->shards().updated(), metrics.grad_norm, limit));
  }
  metrics.lr = LearningRateOf(config(), state_->step);
  if (const absl::Status fenced = saver_->Fence(); !fenced.ok()) {
    saving_failed_ = true;
    return fenced;
  }
  in_doubt_ = "its weights were being updated";
  WAYPOINT_RETURN_IF_ERROR(state_->optimizer().Step(metrics.lr));
  state_->optimizer().ZeroGradients();
  return state_->shards().EndStep();
}

absl::Status Trainer::ForwardBackward(StepMetrics& metrics) {
  const MeshShape& shape = groups_->shape();
  const int64_t rows = config().data().batch_size() / shape.data;
  WAYPOINT_ASSIGN_OR_RETURN(Batch batch, data_->BatchAt(state_->data_position, rows * groups_->here().data, rows));
  batch.inputs = batch.inputs.to(groups_->device());
  batch.targets = batch.targets.to(groups_->device());
  WAYPOINT_RETURN_IF_ERROR(state_->shards().BeginStep());
  WAYPOINT_ASSIGN_OR_RETURN(const double loss, RunForwardBackward(state_->model(), *groups_, batch,
                                                                  config().mesh().micro_batches(), 1.0 / shape.data));
  // Tensor ranks all have the same loss; stages but the last have none.
  const at::Tensor sum = at::full({1}, groups_->here().tensor == 0 ? loss / shape.data : 0.0, at::kDouble);
  WAYPOINT_RETURN_IF_ERROR(groups_->AllReduceSum(MeshAxis::kWorld, sum));
  metrics.loss = sum.item<double>();
  return absl::OkStatus();
}

absl::StatusOr<StepMetrics> Trainer::Step() {
  const absl::Time begin = absl::Now();
  StepMetrics metrics;
  metrics.step = state_->step + 1;
  const absl::Status status = CatchTorch(absl::StrCat("step ", metrics.step), [&]() -> absl::Status {
    WAYPOINT_RETURN_IF_ERROR(ForwardBackward(metrics));
    return UpdateWeights(metrics);
  });
  if (!status.ok() && !(std::isfinite(metrics.loss) && std::isfinite(metrics.grad_norm))) {
    // As the newest checkpoint it would push out one from before the weights went astray.
    in_doubt_ = absl::StrCat("its loss is ", metrics.loss, ", its gradient norm ", metrics.grad_norm);
  }
  // What a failed group threw through libtorch came without its kind.
  WAYPOINT_RETURN_IF_ERROR(Annotate(groups_->failure(), absl::StrCat("step ", metrics.step)));
  WAYPOINT_RETURN_IF_ERROR(status);
  in_doubt_.clear();
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

absl::StatusOr<bool> Trainer::OnAnyRank(bool mine) {
  const at::Tensor flag = at::full({1}, mine ? 1 : 0, at::kLong);
  WAYPOINT_RETURN_IF_ERROR(groups_->AllReduceMax(MeshAxis::kWorld, flag));
  return flag.item<int64_t>() != 0;
}

void Trainer::CollectSaved(TrainReport& report) {
  for (const AsyncSaveReport& saved : saver_->TakeSaved()) {
    report.checkpoints.push_back(saved.save.checkpoint.path);
    saved_step_ = saved.save.checkpoint.step;
    Print(absl::StrCat("saved ", saved.save.checkpoint.path));
    if (saved.why != snapshot_note_) {
      // Once, not with every save.
      snapshot_note_ = saved.why;
      if (!saved.why.empty()) {
        PrintMine(absl::StrCat("note: checkpoint.async: ", saved.why));
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
  if (!wait && config().checkpoint().when_busy() == CheckpointSchedule::REFUSE) {
    // By the step's connections: the save that runs uses the coordinator.
    WAYPOINT_ASSIGN_OR_RETURN(const bool busy, OnAnyRank(saver_->busy()));
    if (busy) {
      Print(absl::StrCat("note: no checkpoint of step ", state_->step, ": the one before is still being written"));
      return absl::OkStatus();
    }
  }
  absl::Status status = saver_->SaveCheckpoint(*state_, /*last=*/wait);
  if (wait) {
    status.Update(saver_->Finish());
  }
  CollectSaved(report);
  saving_failed_ = saving_failed_ || !status.ok();
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
  std::vector<std::string> changes;
  WAYPOINT_RETURN_IF_ERROR(saver_->Hold(&changes));
  PrintWarnings(changes);
  // Whatever it throws: others may be waiting for this rank.
  absl::StatusOr<TrainReport> report = CatchTorch("the run", [this] { return RunLocked(); });
  const bool gone = !groups_->failure().ok();
  if (!report.ok()) {
    // Before anything else: others may be waiting for this rank.
    groups_->Close();
  }
  const absl::Status saves = saver_->Finish();
  TrainReport late;  // of saves that came to their end after the run did
  CollectSaved(late);
  absl::Status failure = report.status();
  const bool from_save = !saves.ok() && GetErrorKind(failure) == ErrorKind::kRank;
  if (from_save) {
    // It is why the others are gone: a save that fails on one rank fails on all, and who learns it first ends.
    failure = saves;
  } else if (!saves.ok()) {
    // Only after another error; without one, all saves were waited for.
    PrintMine(absl::StrCat("warning: ", saves.message()));
  }
  if (!failure.ok()) {
    std::vector<std::string> votes;
    failure = ShareFailure(*options_.coordinator, "last words", failure, gone && !from_save, kLastWordsTimeout,
                           VoteToSave(saves), &votes);
    SaveAfterFailure(votes);
  }
  std::vector<std::string> warnings;
  saver_->Release(&warnings).IgnoreError();  // Finish told its failure, and so did the save after it
  PrintWarnings(warnings);
  return failure.ok() ? std::move(report) : failure;
}

std::string Trainer::WhyNotWhole(const absl::Status& saves) const {
  if (!saves.ok() || saving_failed_) {
    return "the run ends because it cannot save";
  }
  if (!in_doubt_.empty()) {
    return in_doubt_;
  }
  bool finite = false;
  const absl::Status looked = CatchTorch("look at the state", [&] {
    finite = state_->IsFinite();
    return absl::OkStatus();
  });
  return !looked.ok() ? std::string(looked.message()) : finite ? "" : "it has numbers that are not finite";
}

// "+700": a state of that step that is whole; "=700": one that is saved; "-" and why there is none.
std::string Trainer::VoteToSave(const absl::Status& saves) const {
  if (state_->step == saved_step_ && in_doubt_.empty()) {
    return absl::StrCat("=", state_->step);
  }
  const std::string why = WhyNotWhole(saves);
  return why.empty() ? absl::StrCat("+", state_->step) : absl::StrCat("-", why);
}

void Trainer::SaveAfterFailure(const std::vector<std::string>& votes) {
  const std::string step = absl::StrCat(state_->step);
  if (votes.empty() && state_->step == saved_step_) {
    return;
  }
  if (votes.empty()) {
    Print(absl::StrCat("warning: step ", step, " is not saved: other ranks cannot be reached"));
    return;
  }
  for (size_t rank = 0; rank < votes.size(); ++rank) {
    if (votes[rank].empty() || votes[rank][0] == '-') {
      Print(absl::StrCat("warning: step ", step, " is not saved: ", absl::string_view(votes[rank]).substr(1),
                         votes.size() > 1 ? absl::StrCat(" (rank ", rank, ")") : ""));
      return;
    }
    if (votes[rank] != votes[0]) {
      Print(absl::StrCat("warning: no step is saved: rank 0 ended after step ", votes[0].substr(1), ", rank ", rank,
                         " after step ", votes[rank].substr(1)));
      return;
    }
  }
  if (votes[0][0] == '=') {
    return;
  }
  Print(absl::StrCat("the run ends with an error; the state of step ", step, " is whole and is saved first"));
  TrainReport report;
  const absl::Status saved = CatchTorch("save after an error", [&] { return SaveCheckpoint(report, /*wait=*/true); });
  if (!saved.ok()) {
    PrintMine(absl::StrCat("warning: step ", step, " is not saved: ", saved.message()));
  }
}

absl::Status Trainer::OpenHistory() {
  const auto open = [&]() -> absl::Status {
    if (!first_rank()) {
      return absl::OkStatus();
    }
    WAYPOINT_RETURN_IF_ERROR(MakeDirectories(PosixFileSystem(), config().output()));
    if (start_.begins_over) {
      WAYPOINT_ASSIGN_OR_RETURN(const std::string kept, KeepMetrics(config().output()));
      if (!kept.empty()) {
        Print(absl::StrCat("note: the history of the earlier run is kept as \"", kept, "\""));
      }
    }
    WAYPOINT_ASSIGN_OR_RETURN(metrics_, MetricsLog::Open(MetricsPath(config().output()), state_->step));
    saver_->SetBeforeWrite([this] { return metrics_->Sync(); });
    return absl::OkStatus();
  };
  return options_.coordinator->Agree("history", open(), CheckpointTimeout(config()));
}

// ", 6 ranks: ..."; nothing for one.
std::string Trainer::Layout() const {
  const MeshShape& shape = groups_->shape();
  return shape.world_size() == 1
             ? std::string()
             : absl::StrCat(", ", shape.world_size(), " ranks: pipeline ", shape.pipeline, ", data ", shape.data,
                            ", tensor ", shape.tensor, ", zero ", MeshConfig::Zero_Name(config().mesh().zero()));
}

absl::StatusOr<TrainReport> Trainer::RunLocked() {
  TrainReport report;
  report.start = start_.kind;
  report.start_path = start_.path;
  report.first_step = state_->step;
  WAYPOINT_RETURN_IF_ERROR(OpenHistory());

  int64_t parameters = 0;
  int64_t frozen = 0;
  for (const models::ShardedParameter& parameter : models::ShardParameters(config().model(), {})) {
    parameters += NumElements(parameter.shape);
    frozen += IsFrozen(config(), parameter.name) ? NumElements(parameter.shape) : 0;
  }
  Print(absl::StrCat("start from ", StartKindName(start_.kind), start_.path.empty() ? "" : " ", start_.path,
                     " at step ", state_->step, ": ", parameters, " parameters in ", config().dtype(),
                     frozen > 0 ? absl::StrCat(", ", frozen, " of them frozen") : "", ", ", data_->tokens(),
                     " tokens of data", Layout()));
  // A run that was killed between its checkpoint and its export of the same step still owes the export.
  if (start_.kind == StartKind::kResume && saver_->ExportDue(state_->step)) {
    WAYPOINT_ASSIGN_OR_RETURN(const bool exported, saver_->HasExport(state_->step));
    if (!exported) {
      WAYPOINT_RETURN_IF_ERROR(Export(report));
    }
  }
  while (state_->step < config().steps() && !report.stopped) {
    WAYPOINT_ASSIGN_OR_RETURN(const StepMetrics metrics, Step());
    if (metrics_ != nullptr) {
      WAYPOINT_RETURN_IF_ERROR(metrics_->Append(metrics));
    }
    LogStep(metrics);
    if (options_.on_step) {
      options_.on_step(metrics);
    }
    WAYPOINT_ASSIGN_OR_RETURN(const bool stop, OnAnyRank(options_.stop && options_.stop()));
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
