#ifndef TOOLS_CONVERT_RANKS_H_
#define TOOLS_CONVERT_RANKS_H_

// The processes that share one conversion.  Does not link libtorch.  Thread-safe.

#include <memory>

#include "absl/status/statusor.h"
#include "checkpoint/coordination/coordinator.h"
#include "checkpoint/storage/file_system.h"
#include "tools/convert_request.h"

namespace waypoint {

// Null where RANK and WORLD_SIZE are unset or tell of one process, and for a dry run, which rank 0 does alone.
// Otherwise all ranks meet in ".<name>.ranks-<id>" beside the target (file_coordinator.h), where <id> is made of the
// request and of what the launcher says about the job.
// Errors: E_REQUEST for a variable that is no number, as CheckTargetPath, as FileCoordinator::Create.
absl::StatusOr<std::unique_ptr<Coordinator>> JoinRanks(FileSystem& fs, const ConvertRequest& request);

// This is not rank 0, whom a dry run concerns alone.
bool IsIdleInDryRun(const ConvertRequest& request);

}  // namespace waypoint

#endif  // TOOLS_CONVERT_RANKS_H_
