#ifndef ENGINE_DAMAGE_H_
#define ENGINE_DAMAGE_H_

// Checkpoints of a run that are damaged: bytes that do not match their digests, files that are cut short or missing, a
// manifest that cannot be read.  A run may leave such a one aside and continue from the one before
// (config.resume.on_damage), so that all else that keeps it from being read is told apart: a disk that does not answer,
// no permission, no memory, another version of the program, a config that does not fit.  Those pass or can be mended,
// and a good checkpoint must not be given up for them.
//
// Pure; thread-safe.

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/optional.h"

namespace waypoint::engine {

struct DamagedCheckpoint {
  std::string path;
  // What was wrong, as the rank that found it says it.
  absl::Status why;
};

// "checkpoint \"...\" is damaged and is left aside: E_CHECKSUM: ...".
std::string DamageText(const DamagedCheckpoint& damaged);

// Whether CheckpointFormat::Open failed because of damage.
bool IsDamageOfOpen(const absl::Status& status);
// Whether filling the state with tensors did, of a checkpoint that could be opened.
bool IsDamageOfTensors(const absl::Status& status);

// What a rank tells all others of how reading a checkpoint ended.
std::string DamageVote(const absl::Status& status, bool damage);
// What the votes of all ranks come to, the same for each: the damage that a rank found, where none failed for another
// reason.  `mine` is what this one, `rank`, voted about.
absl::optional<absl::Status> DamageIn(const std::vector<std::string>& votes, int rank, const absl::Status& mine);

// An error of a damaged checkpoint with how to go on; `previous` may be empty: there is none.
absl::Status AdviseOnDamage(const absl::Status& status, const std::string& path, const std::string& previous);

}  // namespace waypoint::engine

#endif  // ENGINE_DAMAGE_H_
