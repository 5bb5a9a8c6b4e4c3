// The part of Trainer that comes before the first step.

#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "engine/catch_torch.h"
#include "engine/damage.h"
#include "engine/device.h"
#include "engine/share_failure.h"
#include "engine/trainer.h"
#include "models/decoder/compute_threads.h"

namespace waypoint::engine {

Trainer::Trainer(Start start, const TrainerOptions& options) : start_(std::move(start)), options_(options) {
  if (options_.coordinator == nullptr) {
    options_.coordinator = &local_;
  }
}

absl::StatusOr<std::unique_ptr<Trainer>> Trainer::Create(const ConfigLayers& layers, const TrainerOptions& options) {
  return CatchTorch("the start of the trainer", [&] { return CreateTogether(layers, options); });
}

absl::StatusOr<std::unique_ptr<Trainer>> Trainer::CreateTogether(const ConfigLayers& layers,
                                                                 const TrainerOptions& options) {
  const JobRanks ranks = {options.coordinator, options.ranks_on_this_host};
  std::vector<DamagedCheckpoint> damaged;
  for (int attempt = 1;; ++attempt) {
    absl::StatusOr<Start> start =
        CatchTorch("the start of the run", [&] { return ResolveStart(*options.fs, layers, ranks, damaged); });
    if (options.coordinator != nullptr) {
      const absl::Duration timeout = CheckpointTimeout(start.ok() ? start->config : layers.Merged({}));
      WAYPOINT_RETURN_IF_ERROR(options.coordinator->Agree("config", start.status(), timeout));
    }
    WAYPOINT_RETURN_IF_ERROR(start.status());
    // Each attempt is a trainer of its own, so that nothing of what a damaged checkpoint filled is left.
    auto trainer = absl::WrapUnique(new Trainer(*std::move(start), options));
    if (attempt > 1) {
      absl::StrAppend(&trainer->options_.rendezvous.name, "-again-", attempt);
    }
    WAYPOINT_RETURN_IF_ERROR(trainer->Connect());
    const absl::Status restored = trainer->RestoreState();
    std::vector<std::string> votes;
    const absl::Status shared = trainer->ShareStart(
        "start", restored,
        DamageVote(restored, trainer->start_.kind == StartKind::kResume && IsDamageOfTensors(restored)), &votes);
    if (shared.ok()) {
      WAYPOINT_RETURN_IF_ERROR(trainer->ShareStart("saver", trainer->PrepareSaves()));
      return trainer;
    }
    const absl::optional<absl::Status> damage = DamageIn(votes, trainer->options_.coordinator->rank(), restored);
    if (!damage.has_value() || trainer->config().resume().on_damage() == ResumePolicy::STOP) {
      return shared;
    }
    damaged = trainer->start_.damaged;
    damaged.push_back({trainer->start_.path, *damage});
  }
}

absl::Status Trainer::ShareStart(absl::string_view name, const absl::Status& mine, absl::string_view beside,
                                 std::vector<std::string>* all_beside) {
  const bool gone = !groups_->failure().ok();
  if (!mine.ok()) {
    // Others may wait for this rank.
    groups_->Close();
  }
  return ShareFailure(*options_.coordinator, name, mine, gone, CheckpointTimeout(config()), beside, all_beside);
}

absl::Status Trainer::Connect() {
  const TrainConfig& config = start_.config;
  for (const DamagedCheckpoint& damaged : start_.damaged) {
    Print(absl::StrCat("warning: ", DamageText(damaged), "; ",
                       start_.kind == StartKind::kResume
                           ? absl::StrCat("the run continues from an older one, \"", start_.path, "\"")
                           : "there is no older one, and the run begins over"));
  }
  absl::StatusOr<at::Device> device = DeviceOf(config.device(), options_.coordinator->world_size());
  if (const absl::Status started = models::StartComputeThreads(config.threads()); !started.ok()) {
    device = started;
  }
  auto data = CatchTorch("data", [&] { return TokenFile::Open(config.data(), config.model().vocab_size()); });
  // First, since ranks that connect wait in vain for one that does not come.
  WAYPOINT_RETURN_IF_ERROR(options_.coordinator->Agree("device", device.status(), CheckpointTimeout(config)));
  WAYPOINT_RETURN_IF_ERROR(options_.coordinator->Agree("data", data.status(), CheckpointTimeout(config)));
  data_ = *std::move(data);
  WAYPOINT_RETURN_IF_ERROR(ExamineTokens());
  for (const std::string& note : start_.notes) {
    Print(absl::StrCat("note: ", note));
  }
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

absl::Status Trainer::ExamineTokens() {
  WAYPOINT_ASSIGN_OR_RETURN(
      start_.data, ExamineData(*data_, *options_.coordinator, CheckpointTimeout(config()), options_.on_data_read));
  data_->Expect([record = start_.data](const TokenFile& now) -> absl::Status {
    LocalCoordinator alone;
    WAYPOINT_ASSIGN_OR_RETURN(const DataRecord found, ExamineData(now, alone, absl::InfiniteDuration(), {}));
    if (found.size_bytes() == record.size_bytes() && found.xxh3() == record.xxh3()) {
      return absl::OkStatus();
    }
    return MakeError(ErrorKind::kChecksum,
                     absl::StrCat("it has ", DataRecordText(found), ", and had ", DataRecordText(record)));
  });
  return CheckData(start_.data, start_);
}

absl::Status Trainer::RestoreState() {
  return CatchTorch("initial state", [&]() -> absl::Status {
    WAYPOINT_ASSIGN_OR_RETURN(state_, TrainState::Create(config(), *groups_));
    absl::Status restored = state_->Restore(start_);
    if (start_.kind == StartKind::kResume && IsDamageOfTensors(restored) &&
        config().resume().on_damage() == ResumePolicy::STOP) {
      restored = AdviseOnDamage(restored, start_.path, start_.previous);
    }
    return Annotate(restored, absl::StrCat(StartKindName(start_.kind), " from \"", start_.path, "\""));
  });
}

absl::Status Trainer::PrepareSaves() {
  saved_step_ = state_->step;
  if (const ReadStats& read = state_->restored; read.bytes_unchecked > 0) {
    Print(absl::StrCat("note: the digests of ", read.bytes_unchecked, " of ", read.bytes_read,
                       " bytes that this rank read were not checked: of their chunks it needs parts only, and the rest "
                       "of those would have been too much to read"));
  }
  return CatchTorch("saves", [&]() -> absl::Status {
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
  });
}

}  // namespace waypoint::engine
