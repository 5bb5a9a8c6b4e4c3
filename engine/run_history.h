#ifndef ENGINE_RUN_HISTORY_H_
#define ENGINE_RUN_HISTORY_H_

// What earlier runs left in an output directory, for one that finds no checkpoint there to continue from.  A run whose
// checkpoints are gone (moved, deleted, on a disk that is not mounted) must not begin anew as if nothing had been.
//
//   WAYPOINT_ASSIGN_OR_RETURN(const RunHistory history, FindRunHistory(fs, output));
//   if (history.lost()) { ... history.Text() ... }
//
// A run that was killed before its first checkpoint left a history too, and begins anew rightly.  It is known by a file
// in its checkpoint folder that is there from the start of a run to its first checkpoint.
//
// Thread-safe.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoint/storage/file_system.h"
#include "engine/metrics_log.h"

namespace waypoint::engine {

struct RunHistory {
  MetricsHistory metrics;
  // "llama/step-00000020", by format and step.
  std::vector<std::string> exports;
  // What the checkpoint folder holds of checkpoints: "step-00000020.damaged".
  std::vector<std::string> remains;
  // No checkpoint of it was ever published.
  bool unsaved = false;

  bool empty() const { return metrics.lines == 0 && exports.empty() && remains.empty(); }
  // There were checkpoints, as far as anybody can tell.
  bool lost() const { return !remains.empty() || (!empty() && !unsaved); }
  // "metrics.jsonl up to step 20, 2 exports (the last is "llama/step-00000020")".
  std::string Text() const;
};

// `fs` for checkpoints and exports; metrics are an ordinary file.  E_EXISTS for a metrics.jsonl that is no history.
absl::StatusOr<RunHistory> FindRunHistory(FileSystem& fs, const std::string& output);

// The files of a run.
std::string MetricsPath(const std::string& output);

// Of the run that begins: no checkpoint yet.  Durable.
absl::Status MarkUnsaved(FileSystem& fs, const std::string& checkpoint_directory);
// It has one.  OK where nothing was marked.
absl::Status MarkSaved(FileSystem& fs, const std::string& checkpoint_directory);

// Renames metrics.jsonl to "metrics.jsonl.before-1", or the next number that is free; returns the new path, empty where
// there is none.
absl::StatusOr<std::string> KeepMetrics(const std::string& output);

}  // namespace waypoint::engine

#endif  // ENGINE_RUN_HISTORY_H_
