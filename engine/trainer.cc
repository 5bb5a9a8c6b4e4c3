#include "engine/trainer.h"

#include <sys/resource.h>

#include <algorithm>
#include <cmath>
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
#include "checkpoint/base/visible_text.h"
#include "checkpoint/tensor/box.h"
#include "engine/catch_torch.h"
#include "engine/device.h"
#include "engine/frozen.h"
#include "engine/learning_rate.h"
#include "engine/pipeline.h"
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

Trainer::Trainer(Start start, const TrainerOptions& options) : start_(std::move(start)), options_(options) {
  if (options_.coordinator == nullptr) {
    options_.coordinator = &local_;
  }
}

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

absl::StatusOr<std::unique_ptr<Trainer>> Trainer::Create(const ConfigLayers& layers, const TrainerOptions& options) {
  const JobRanks ranks = {options.coordinator, options.ranks_on_this_host};
  absl::StatusOr<Start> start = ResolveStart(*options.fs, layers, ranks);
  if (options.coordinator != nullptr) {
    const absl::Duration timeout = CheckpointTimeout(start.ok() ? start->config : layers.Merged({}));
    WAYPOINT_RETURN_IF_ERROR(options.coordinator->Agree("config", start.status(), timeout));
  }
  WAYPOINT_RETURN_IF_ERROR(start.status());
  auto trainer = absl::WrapUnique(new Trainer(*std::move(start), options));
  WAYPOINT_RETURN_IF_ERROR(trainer->Connect());
  const absl::Status built = trainer->Build();
  const bool gone = !trainer->groups_->failure().ok();
  if (!built.ok()) {
    trainer->groups_->Close();
  }
  WAYPOINT_RETURN_IF_ERROR(
      ShareFailure(*trainer->options_.coordinator, "start", built, gone, CheckpointTimeout(trainer->config())));
  return trainer;
}

absl::Status Trainer::Connect() {
  const TrainConfig& config = start_.config;
  for (const std::string& note : start_.notes) {
    Print(absl::StrCat("note: ", note));
  }
  at::set_num_threads(config.threads());
  const auto device = DeviceOf(config.device(), options_.coordinator->world_size());
  auto data = TokenFile::Open(config.data(), config.model().vocab_size());
  // First, since ranks that connect wait in vain for one that does not come.
  WAYPOINT_RETURN_IF_ERROR(options_.coordinator->Agree("device", device.status(), CheckpointTimeout(config)));
  WAYPOINT_RETURN_IF_ERROR(options_.coordinator->Agree("data", data.status(), CheckpointTimeout(config)));
  data_ = *std::move(data);
  WAYPOINT_ASSIGN_OR_RETURN(const MeshShape shape, MakeMeshShape(options_.coordinator->world_size(),
                                                                 config.mesh().pipeline(), config.mesh().tensor()));
  ProcessGroupOptions group_options;
  group_options.timeout = absl::Seconds(config.mesh().timeout_seconds());
  group_options.device = *device;
  group_options.watch = [this] { return options_.coordinator->CheckAlive(); };
  auto groups = ProcessGroups::Create(options_.rendezvous, shape, group_options);
  WAYPOINT_RETURN_IF_ERROR(
      ShareFailure(*options_.coordinator, "process groups", groups.status(), /*gone=*/true, CheckpointTimeout(config)));
  groups_ = *std::move(groups);
  return absl::OkStatus();
}

absl::Status Trainer::Build() {
  const TrainConfig& config = start_.config;
  WAYPOINT_RETURN_IF_ERROR(CatchTorch("initial state", [&]() -> absl::Status {
    WAYPOINT_ASSIGN_OR_RETURN(state_, TrainState::Create(config, *groups_));
    return Annotate(AdviseOnDamage(state_->Restore(start_), start_),
                    absl::StrCat(StartKindName(start_.kind), " from \"", start_.path, "\""));
  }));
  if (const ReadStats& read = state_->restored; read.bytes_unchecked > 0) {
    Print(absl::StrCat("note: the digests of ", read.bytes_unchecked, " of ", read.bytes_read,
                       " bytes that this rank read were not checked: of their chunks it needs parts only, and the rest "
                       "of those would have been too much to read"));
  }
  saver_ = absl::make_unique<RunSaver>(*options_.fs, start_, *options_.coordinator, options_.exchange);
  WAYPOINT_ASSIGN_OR_RETURN(const std::vector<std::string> notes, saver_->Prepare(*state_));
  for (const std::string& note : notes) {
    PrintMine(absl::StrCat("note: ", note));
  }
  // Its files would stay open for the whole run.
  start_.checkpoint.reset();
  WAYPOINT_ASSIGN_OR_RETURN(const std::vector<std::string> export_notes, saver_->CheckExport(*state_));
  for (const std::string& note : export_notes) {
    Print(absl::StrCat("note: ", note));
  }
  return absl::OkStatus();
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
  WAYPOINT_RETURN_IF_ERROR(saver_->Fence());
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
  // What a failed group threw through libtorch came without its kind.
  WAYPOINT_RETURN_IF_ERROR(Annotate(groups_->failure(), absl::StrCat("step ", metrics.step)));
  WAYPOINT_RETURN_IF_ERROR(status);
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
  WAYPOINT_RETURN_IF_ERROR(saver_->Hold());
  absl::StatusOr<TrainReport> report = RunLocked();
  const bool gone = !groups_->failure().ok();
  if (!report.ok()) {
    // Before anything else: others may be waiting for this rank.
    groups_->Close();
  }
  std::vector<std::string> warnings;
  const absl::Status released = saver_->Release(&warnings);
  absl::Status failure = report.status();
  const bool from_save = !released.ok() && GetErrorKind(failure) == ErrorKind::kRank;
  if (from_save) {
    // It is why the others are gone: a save that fails on one rank fails on all, and who learns it first ends.
    failure = released;
  } else if (!released.ok()) {
    // Only after another error; without one, all saves were waited for.
    PrintMine(absl::StrCat("warning: ", released.message()));
  }
  PrintWarnings(warnings);
  if (!failure.ok()) {
    return ShareFailure(*options_.coordinator, "last words", failure, gone && !from_save, kLastWordsTimeout);
  }
  return report;
}

absl::Status Trainer::OpenHistory() {
  const auto open = [&]() -> absl::Status {
    if (!first_rank()) {
      return absl::OkStatus();
    }
    WAYPOINT_RETURN_IF_ERROR(MakeDirectories(PosixFileSystem(), config().output()));
    WAYPOINT_ASSIGN_OR_RETURN(metrics_, MetricsLog::Open(JoinPath(config().output(), "metrics.jsonl"), state_->step));
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
