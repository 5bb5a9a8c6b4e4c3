#ifndef ENGINE_RUN_SAVER_H_
#define ENGINE_RUN_SAVER_H_

// When and where a run saves and exports.
//
//   <output>/checkpoint/step-00000010/         native, weights and optimizer: what a resume reads
//   <output>/export/<format>/step-00000010/    weights in another program's format
//
// A checkpoint is due every checkpoint.interval steps and at the last step of every process: the end or a signal.  An
// export is due every export.interval steps and at the end.  Old ones go by keep and keep_every after the new one is
// published; saves off the interval are never deleted.
// One thread.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "checkpoint/checkpointer/checkpointer.h"
#include "engine/config.h"
#include "engine/start.h"
#include "engine/train_state.h"

namespace waypoint::engine {

class RunSaver {
 public:
  // What travels with the weights (external config files, tokenizer) is taken from start.checkpoint.
  RunSaver(FileSystem& fs, const Start& start);

  // Plans an export without writing it: a model that the export format cannot hold is refused before hours of training.
  absl::Status CheckExport(const TrainState& state) const;

  bool CheckpointDue(int64_t step) const;
  bool ExportDue(int64_t step) const;

  absl::StatusOr<SaveReport> SaveCheckpoint(const TrainState& state);
  // Only when config.export is set.
  absl::StatusOr<SaveReport> Export(const TrainState& state);
  // Whether an export of that step is there.
  absl::StatusOr<bool> HasExport(int64_t step);

 private:
  CheckpointMetadata Metadata(const TrainState& state) const;

  FileSystem& fs_;
  const TrainConfig config_;
  CheckpointMetadata carried_;  // external_format, external_configs
  std::vector<Asset> assets_;
};

// Is something of that interval due at a step?  0: never by interval.
bool OnInterval(int64_t step, int64_t interval);

}  // namespace waypoint::engine

#endif  // ENGINE_RUN_SAVER_H_
