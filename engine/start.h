#ifndef ENGINE_START_H_
#define ENGINE_START_H_

// Where a run begins, and the config that it runs with.
//
//   WAYPOINT_ASSIGN_OR_RETURN(Start start, ResolveStart(fs, layers, {}));
//
// 1. The newest sealed checkpoint below <output>/checkpoint, of any format: the run continues.  Its model is the base
//    of `model`; a config that asks for another architecture or dtype is refused (E_CONFIG, naming the fields), any
//    other difference is a note.  `pretrained` is not looked at, so that it may be gone by then.  A checkpoint that
//    lies under the name of another step is refused (E_AMBIGUOUS).  A damaged one is left aside for the one before, if
//    any rank finds it damaged, or is an error that says what to move away, as resume.on_damage says; one that is not
//    sealed is passed over with a note.  Without a whole one, what is left of a run is refused (E_EXISTS; the error of
//    the newest where all are damaged), unless start_over says otherwise.
// 2. Else `pretrained.path`: a run from step 0 with those weights; what of its config is the base says `load_config`.
//    An architecture that then differs is a note, but weights that the model does not take are refused (E_EXTRA), by
//    name on every rank; shapes are checked when the weights are read.
// 3. Else random weights of `model`.
//
// Reads small files only, and writes nothing: tensors stay on disk until Trainer restores them.  Errors: E_REQUEST for
// the config, E_CONFIG for the model, E_UNSUPPORTED for what of it DecoderModule cannot train (CheckTrainable), and
// those of CheckpointFormat::Open with the path.  Thread-compatible.

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "checkpoint/coordination/coordinator.h"
#include "checkpoint/format/checkpoint_format.h"
#include "checkpoint/format/metadata.pb.h"
#include "checkpoint/storage/file_system.h"
#include "engine/config.h"
#include "engine/damage.h"

namespace waypoint::engine {

enum class StartKind { kRandom, kPretrained, kResume };

// "random weights", "pretrained", "resume".
absl::string_view StartKindName(StartKind kind);

struct Start {
  StartKind kind = StartKind::kRandom;
  // Complete and checked; `threads` is the real number.
  TrainConfig config;
  // Of the checkpoint; empty for kRandom.
  std::string path;
  // Set but for kRandom.
  absl::optional<OpenedCheckpoint> checkpoint;
  // Parameters without optimizer state in it, because they were frozen when it was saved.  Empty where that is not
  // read.
  std::vector<std::string> thawed;
  // The run's checkpoint before that; empty where there is none.
  std::string previous;
  // Newer ones that are left aside, the newest first.  To be renamed by who holds the run's lock.
  std::vector<DamagedCheckpoint> damaged;
  // Of the run's data, once somebody has read them: what checkpoints say of it.
  DataRecord data;
  // The history of an earlier run is to be kept under another name: start_over.
  bool begins_over = false;
  // Lines for the user.
  std::vector<std::string> notes;
};

// The job that this process is a rank of.
struct JobRanks {
  // Null: a job of one process.  All ranks resolve together, so that all see the checkpoint that rank 0 sees.
  Coordinator* coordinator = nullptr;
  // How many of them share this machine's cores.
  int on_this_host = 1;

  int world_size() const { return coordinator == nullptr ? 1 : coordinator->world_size(); }
};

// `damaged`: what is known to be damaged already, because reading its tensors failed; comes back in Start::damaged.
absl::StatusOr<Start> ResolveStart(FileSystem& fs, const ConfigLayers& layers, const JobRanks& ranks = {},
                                   std::vector<DamagedCheckpoint> damaged = {});

// Adds notes about data that are others than the checkpoint's of kResume; E_REQUEST where they may not be
// (CompareData).
absl::Status CheckData(const DataRecord& data, Start& start);

// Random generators in a checkpoint's training state: one rank's is "torch_cpu", that of one of many "torch_cpu/3".  In
// checkpoints, never rename.
std::string GeneratorKey(int rank, int world_size);
// How many ranks saved theirs.
int SavedGenerators(const TrainingState& training);

// The directories of a run.
std::string CheckpointDirectory(const TrainConfig& config);
std::string ExportDirectory(const TrainConfig& config);

}  // namespace waypoint::engine

#endif  // ENGINE_START_H_
