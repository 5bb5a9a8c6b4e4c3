#ifndef ENGINE_TRAINER_H_
#define ENGINE_TRAINER_H_

// Trains a decoder on a file of tokens, and saves, exports and resumes on the way.
//
//   ConfigLayers layers;  ...
//   WAYPOINT_ASSIGN_OR_RETURN(auto trainer, Trainer::Create(layers, {}));
//   WAYPOINT_ASSIGN_OR_RETURN(TrainReport report, trainer->Run());
//
// A step is a function of the state before it, so that 10 steps give the same bits as 5 steps, a resume and 5 more
// (with the same number of threads and ranks on the same kind of machine).
//
// Of many ranks each has a trainer and makes the same calls; config.mesh says how they divide the work (mesh.h).  Rank
// 0 alone writes the history and prints what is the job's.  When one fails all end with an error: its own on that rank,
// and one that names it on the others.  One thread, one run per object.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoint/coordination/c10d/c10d_options.h"
#include "checkpoint/coordination/coordinator.h"
#include "checkpoint/coordination/exchange.h"
#include "checkpoint/storage/file_system.h"
#include "engine/collectives.h"
#include "engine/config.h"
#include "engine/data.h"
#include "engine/data_record.h"
#include "engine/metrics_log.h"
#include "engine/run_saver.h"
#include "engine/start.h"
#include "engine/train_state.h"

namespace waypoint::engine {

struct TrainerOptions {
  // Checkpoints and exports go through it; data and metrics are ordinary files.
  FileSystem* fs = &PosixFileSystem();
  // Null: a job of one process.
  Coordinator* coordinator = nullptr;
  // Of the coordinator's ranks, for formats whose files they write together; null: those are refused when tensors would
  // have to cross ranks.
  Exchange* exchange = nullptr;
  // Where the process groups of the coordinator's ranks meet.
  C10dOptions rendezvous;
  // Ranks that share this machine's cores.
  int ranks_on_this_host = 1;
  // Asked after every step; true on any rank saves a checkpoint and ends the run on all.
  std::function<bool()> stop;
  // After every step, before it is saved.
  std::function<void(const StepMetrics&)> on_step;
  // While the data file is read through at the start: this rank's share of it.  Not called for a rank that has none. An
  // error ends the start.
  DataProgress on_data_read;
  // Gets lines for people: those of the job on rank 0, and on each other rank what concerns that one alone, with its
  // number.  Unset: they go to stderr.
  std::function<void(const std::string&)> print;
};

struct TrainReport {
  StartKind start = StartKind::kRandom;
  std::string start_path;
  int64_t first_step = 0;  // completed when this run began
  int64_t last_step = 0;
  double last_loss = 0;
  bool stopped = false;                  // before config.steps, because `stop` said so
  std::vector<std::string> checkpoints;  // saved by this run, in order; retention may have deleted some since
  std::vector<std::string> exports;
};

class Trainer {
 public:
  // Resolves config and start (start.h), opens and examines the data, restores the state, and checks that an export
  // will be possible.  A checkpoint whose tensors turn out to be damaged is left aside, and all begins again with the
  // one before (resume.on_damage).  Nothing is written yet.
  static absl::StatusOr<std::unique_ptr<Trainer>> Create(const ConfigLayers& layers, const TrainerOptions& options);

  // Steps until config.steps or until `stop`.  Errors: E_LOCKED, naming the owner, where another job saves, or did
  // since Create; of data, of
  // saving (the run ends: weights that cannot be saved are not worth computing), E_DIVERGED for a gradient that
  // is not finite, E_RANK when another rank failed, Internal for what libtorch throws.  After an error of anything but
  // saving, a checkpoint of the last whole step is saved first, where the state of all ranks is whole.
  absl::StatusOr<TrainReport> Run();

  const TrainConfig& config() const { return start_.config; }
  TrainState& state() { return *state_; }

 private:
  static absl::StatusOr<std::unique_ptr<Trainer>> CreateTogether(const ConfigLayers& layers,
                                                                 const TrainerOptions& options);
  Trainer(Start start, const TrainerOptions& options);

  bool first_rank() const { return options_.coordinator->rank() == 0; }
  // Opens what a rank may lack, then connects it to the others.
  absl::Status Connect();
  absl::Status ExamineTokens();
  absl::Status RestoreState();
  absl::Status PrepareSaves();
  // ShareFailure of a part of the start.
  absl::Status ShareStart(absl::string_view name, const absl::Status& mine, absl::string_view beside = {},
                          std::vector<std::string>* all_beside = nullptr);
  // On rank 0 alone.
  void Print(const std::string& line) const;
  // Of this rank, whichever it is.
  void PrintMine(const std::string& line) const;
  void PrintWarnings(const std::vector<std::string>& warnings) const;
  absl::StatusOr<StepMetrics> Step();
  absl::Status ForwardBackward(StepMetrics& metrics);
  absl::Status UpdateWeights(StepMetrics& metrics);
  // Whether it is so on any rank.
  absl::StatusOr<bool> OnAnyRank(bool mine);
  absl::StatusOr<TrainReport> RunLocked();
  // `wait`: until it is on the disk; else it may be left out.
  absl::Status SaveCheckpoint(TrainReport& report, bool wait);
  // Adds what was published meanwhile.
  void CollectSaved(TrainReport& report);
  absl::Status Export(TrainReport& report);
  void LogStep(const StepMetrics& metrics);
  absl::Status OpenHistory();
  std::string Layout() const;
  // Of the state that an error left, where the saves before ended with `saves`: why it must not be saved; empty: it is
  // whole.
  std::string WhyNotWhole(const absl::Status& saves) const;
  std::string VoteToSave(const absl::Status& saves) const;
  // `votes`: of all ranks; empty where they cannot be reached.
  void SaveAfterFailure(const std::vector<std::string>& votes);

  Start start_;
  TrainerOptions options_;
  LocalCoordinator local_;
  std::unique_ptr<ProcessGroups> groups_;
  std::unique_ptr<TrainState> state_;
  std::unique_ptr<TokenFile> data_;
  std::unique_ptr<MetricsLog> metrics_;  // rank 0's; synced by the saver
  std::unique_ptr<RunSaver> saver_;
  int64_t saved_step_ = 0;      // of the newest checkpoint
  bool saving_failed_ = false;  // the run ends for that
  std::string in_doubt_;        // why the state is none to continue from; empty: it is
  std::string snapshot_note_;   // why snapshots are not taken as asked, as last printed
  // Since the last line on stderr.
  double logged_seconds_ = 0;
  int64_t logged_tokens_ = 0;
};

}  // namespace waypoint::engine

#endif  // ENGINE_TRAINER_H_
