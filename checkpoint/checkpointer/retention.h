#ifndef CHECKPOINT_CHECKPOINTER_RETENTION_H_
#define CHECKPOINT_CHECKPOINTER_RETENTION_H_

// Which saves of a root are kept.  Pure; thread-safe.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/optional.h"
#include "absl/types/span.h"

namespace waypoint {

struct Retention {
  // The newest n saves, and the one just made; 0 keeps all.
  int64_t keep = 0;
  // Every n-th scheduled save (by step: step % (interval * keep_every) == 0) is kept for ever and not counted; 0: none.
  int64_t keep_every = 0;
  // Steps between scheduled saves.  0: none is scheduled.
  int64_t interval = 1;
  // A save that was not scheduled (a signal's, one after an error, the last one of a run) is never deleted and not
  // counted: one that says so, or that says nothing about it and is of a step between.  Otherwise it is one like all
  // others.
  bool keep_unscheduled = false;
  // Besides those, the n saves of the root that are best by metadata.training().metrics[best_metric]; 0: none.  A save
  // without that metric, or where it is NaN, is never among them.  Of equals the newer is the better one.
  int64_t keep_best = 0;
  std::string best_metric = {};
  bool higher_is_better = false;
};

struct RetentionCandidate {
  int64_t step = 0;
  // metadata.training().metrics[best_metric].
  absl::optional<double> metric = {};
  // Whatever the policy says: the save just made.
  bool stays = false;
  // metadata.training().scheduled, where it is set.
  absl::optional<bool> scheduled = {};
};

// Whether a save of that step is kept for ever, be it scheduled or not.
bool IsKeptForEver(const Retention& retention, int64_t step);

// Indexes of the candidates to delete, ascending.  `candidates` are all sealed saves that can be opened, oldest
// first; the newest is never deleted, and so never the only one.
std::vector<size_t> ChooseDeletions(const Retention& retention, absl::Span<const RetentionCandidate> candidates);

}  // namespace waypoint

#endif  // CHECKPOINT_CHECKPOINTER_RETENTION_H_
