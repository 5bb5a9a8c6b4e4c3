#ifndef ENGINE_OWN_CHECKPOINTS_H_
#define ENGINE_OWN_CHECKPOINTS_H_

// Which of its own checkpoints a run continues from, and what it makes of an output that has none.  All ranks call both
// and come to one answer; `own` is what the user says of the config.  Part of ResolveStart, which see for the errors.

#include "absl/status/status.h"
#include "checkpoint/storage/file_system.h"
#include "engine/config.h"
#include "engine/start.h"

namespace waypoint::engine {

// Opens the newest checkpoint that is not damaged into start.checkpoint, and sets kind, path and previous.  Without
// any, start.kind stays as it was.  What is damaged is added to start.damaged; what is there already is not looked at.
absl::Status OpenNewest(FileSystem& fs, const TrainConfig& own, const JobRanks& job, Start& start);

// Looks at what else is there of the run, and refuses a metrics.jsonl that is none.  Where no whole checkpoint is left,
// refuses what an earlier run left, or sets start.begins_over.
absl::Status CheckHistory(FileSystem& fs, const TrainConfig& own, const JobRanks& job, Start& start);

}  // namespace waypoint::engine

#endif  // ENGINE_OWN_CHECKPOINTS_H_
