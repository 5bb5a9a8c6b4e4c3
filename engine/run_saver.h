#ifndef ENGINE_RUN_SAVER_H_
#define ENGINE_RUN_SAVER_H_

// When and where a run saves and exports.
//
//   <output>/checkpoint/step-00000010/         weights and optimizer: what a resume reads
//   <output>/export/<format>/step-00000010/    weights in another program's format
//
// A checkpoint is due every checkpoint.interval steps and at the last step of every process: the end or a signal.  An
// export is due every export.interval steps and at the end.  Old ones go by keep, keep_every and keep_best after the
// new one is published; with keep_signal_saves, a save that was not due by its interval when it was made is never
// deleted.
//
// With checkpoint.async, SaveCheckpoint only begins: the trainer calls Fence just before it changes the weights, and
// Finish before it counts on the checkpoint.  A failure comes from whichever of these is called next.
//
// Many ranks make the same calls, each with its own state.  The coordinator is used by the background save too: between
// SaveCheckpoint and Finish nobody else may.
// One thread.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "checkpoint/async/async_saver.h"
#include "checkpoint/async/snapshot_arena.h"
#include "checkpoint/checkpointer/checkpointer.h"
#include "engine/config.h"
#include "engine/start.h"
#include "engine/train_state.h"

namespace waypoint::engine {

class RunSaver {
 public:
  // What travels with the weights (external config files, tokenizer) is taken from start.checkpoint.
  // `coordinator`, of the ranks that save together, and `exchange`, which may be null, are borrowed.
  RunSaver(FileSystem& fs, const Start& start, Coordinator& coordinator, Exchange* exchange);

  // Gets the memory that asynchronous saves need; moves the state's tensors where that is what the method wants.
  // Returns what a user should know.  E_REQUEST for a checkpoint.format that there is not or that keeps no optimizer
  // state, E_UNSUPPORTED for one that these ranks cannot write together.
  absl::StatusOr<std::vector<std::string>> Prepare(const TrainState& state);

  // What must be on the disk before a checkpoint is published: called once before each is written, where it is written,
  // which may be in the background.  Its failure is that of the save.
  void SetBeforeWrite(std::function<absl::Status()> sync) { before_write_ = std::move(sync); }

  // Keeps other jobs from saving here, until Release.  E_LOCKED with the owner, or when another job has saved since the
  // start was chosen: this one would continue from a state that is not the newest any more.
  // Then renames checkpoints that the start left aside as damaged, which `changes` tells.
  absl::Status Hold(std::vector<std::string>* changes);
  // Waits for the save that runs, and returns its failure.  Adds removals of old checkpoints that failed to `warnings`.
  absl::Status Release(std::vector<std::string>* warnings);

  // Plans an export without writing it: a model that the export format cannot hold is refused before hours of training.
  absl::StatusOr<std::vector<std::string>> CheckExport(const TrainState& state) const;
  // The same from the config alone, as one rank would export.
  absl::StatusOr<std::vector<std::string>> CheckExport() const;

  bool CheckpointDue(int64_t step) const;
  bool ExportDue(int64_t step) const;

  // The failure of the save before keeps this one from beginning, but for the last one of a run: that is begun all the
  // same, and the failure returned afterwards.
  absl::Status SaveCheckpoint(const TrainState& state, bool last);
  // Whether this rank still writes a checkpoint in the background.
  bool busy() const { return async_ != nullptr && async_->busy(); }
  // Before the state changes.
  absl::Status Fence();
  // Returns when all that was begun is on the disk.
  absl::Status Finish();
  // Checkpoints that were published since the last call, in order.
  std::vector<AsyncSaveReport> TakeSaved();

  // Waits for the checkpoint that is being written: exports come after it.  Only when config.export is set.
  absl::StatusOr<SaveReport> Export(const TrainState& state);
  // Whether an export of that step is there.
  absl::StatusOr<bool> HasExport(int64_t step);

 private:
  // `scheduled`: by the interval of what is saved.
  CheckpointMetadata Metadata(const TrainState& state, bool scheduled) const;
  // With the random generators of all ranks, on rank 0.
  absl::StatusOr<CheckpointMetadata> CheckpointMetadataOf(const TrainState& state);
  CheckpointerOptions Options() const;
  absl::StatusOr<std::vector<std::string>> PlanExport(const CheckpointMetadata& metadata, TensorSource& source,
                                                      const SaveOptions& options) const;
  // What every save of this job has in common.
  void SetRanks(SaveOptions& options) const;
  absl::Status CheckRanks(absl::string_view field, const CheckpointFormat& format) const;
  // What must follow every checkpoint that was published.
  absl::Status Published(AsyncSaveReport report);
  // On rank 0, which alone holds the lock.
  absl::Status HoldRoot(std::vector<std::string>* changes);
  absl::Status TakeOver(std::vector<std::string>* changes);
  absl::Status BeginSave(const TrainState& state);

  FileSystem& fs_;
  Coordinator& coordinator_;
  Exchange* const exchange_;
  const TrainConfig config_;
  const absl::Duration timeout_;  // of every wait for other ranks
  const std::string resumed_;     // the run's checkpoint that the job began with; empty: none
  const std::vector<DamagedCheckpoint> damaged_;
  CheckpointMetadata carried_;  // external_format, external_configs, external_dtype
  std::vector<Asset> assets_;
  std::vector<AsyncSaveReport> saved_;
  std::function<absl::Status()> before_write_ = [] { return absl::OkStatus(); };
  CheckpointRoot root_;
  // Null with checkpoint.async: NONE.  Last, so that it ends before what it uses.
  std::unique_ptr<AsyncSaver> async_;
};

// Is something of that interval due at a step?  0: never by interval.
bool OnInterval(int64_t step, int64_t interval);

}  // namespace waypoint::engine

#endif  // ENGINE_RUN_SAVER_H_
