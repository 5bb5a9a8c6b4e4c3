#include "checkpoint/coordination/launch_environment.h"

#include <cstdlib>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"

namespace waypoint {

absl::StatusOr<int> IntegerFromEnvironment(const char* name) {
  const char* text = std::getenv(name);
  int value = 0;
  if (text == nullptr || !absl::SimpleAtoi(text, &value)) {
    return MakeError(ErrorKind::kRequest,
                     text == nullptr
                         ? absl::StrCat("environment variable ", name, " is not set; launchers of ranks set it")
                         : absl::StrCat("environment variable ", name, " is \"", text, "\", wanted a number"));
  }
  // Ranks, ports and numbers of ranks; what is kept for each rank must fit into memory.
  constexpr int kLargest = 65536;
  if (value > kLargest) {
    return MakeError(ErrorKind::kRequest,
                     absl::StrCat("environment variable ", name, " is ", value, ", wanted ", kLargest, " at most"));
  }
  return value;
}

bool HasLaunchEnvironment() { return std::getenv("RANK") != nullptr || std::getenv("WORLD_SIZE") != nullptr; }

std::string JobIdentityFromEnvironment() {
  std::string identity;
  for (const char* name : {"TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "SLURM_JOB_ID", "SLURM_STEP_ID",
                           "MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE"}) {
    const char* value = std::getenv(name);
    absl::StrAppend(&identity, name, "=", value == nullptr ? "" : value, "\n");
  }
  return identity;
}

}  // namespace waypoint
