#ifndef CHECKPOINT_COORDINATION_LAUNCH_ENVIRONMENT_H_
#define CHECKPOINT_COORDINATION_LAUNCH_ENVIRONMENT_H_

// What torchrun, Slurm and scripts tell the ranks that they start.  Thread-safe as long as nobody changes the
// environment.

#include <string>

#include "absl/status/statusor.h"

namespace waypoint {

// E_REQUEST names the variable that is not set or no number.
absl::StatusOr<int> IntegerFromEnvironment(const char* name);

// Whether a launcher said that this process is one of several.
bool HasLaunchEnvironment();

// The same for all ranks of a job and different for another one: the launcher's job id and attempt, and the address of
// its rendezvous, as far as they are set.
std::string JobIdentityFromEnvironment();

}  // namespace waypoint

#endif  // CHECKPOINT_COORDINATION_LAUNCH_ENVIRONMENT_H_
