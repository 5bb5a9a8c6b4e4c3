#ifndef TOOLS_CONVERT_RANKS_H_
#define TOOLS_CONVERT_RANKS_H_

// The processes that share one conversion.  Does not link libtorch.  Thread-safe.

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "checkpoint/coordination/coordinator.h"
#include "checkpoint/coordination/wait_hooks.h"
#include "checkpoint/storage/file_system.h"
#include "tools/convert_request.h"

namespace waypoint {

// Null without --ranks env, where WORLD_SIZE is 1, and for a dry run, which rank 0 does alone.  Otherwise all ranks
// meet in ".<name>.ranks-<id>" beside the target (file_coordinator.h), where <id> is made of the request and of what
// the launcher says about the job. Errors: E_REQUEST for a variable that is missing or no number, as CheckTargetPath,
// as FileCoordinator::Create.
absl::StatusOr<std::unique_ptr<Coordinator>> JoinRanks(FileSystem& fs, const ConvertRequest& request,
                                                       const WaitHooks& hooks);

// This is not rank 0, whom a dry run concerns alone.
bool IsIdleInDryRun(const ConvertRequest& request);

// That RANK or WORLD_SIZE say that this is one of several processes, and nobody asked to heed them; "" otherwise.
std::string UnheededRanks(const ConvertRequest& request);

}  // namespace waypoint

#endif  // TOOLS_CONVERT_RANKS_H_
