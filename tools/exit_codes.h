#ifndef TOOLS_EXIT_CODES_H_
#define TOOLS_EXIT_CODES_H_

// What the exit code of a tool says.  Scripts depend on the numbers: never renumber.  Thread-safe.

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace waypoint {

enum ExitCode : int {
  kExitOk = 0,             // the request is done: an output is published, a comparison found no difference
  kExitInternal = 1,       // a bug, another rank's failure, or training that diverged
  kExitRequest = 2,        // the request is wrong: flags, an output that exists, a directory somebody else holds
  kExitInput = 3,          // the input is wrong: any E_... of a file's contents, config, or what it lacks
  kExitVerify = 4,         // what was written does not verify, or two checkpoints differ
  kExitIo = 5,             // missing or unreadable files, failed writes, no space, no memory
  kExitInterrupted = 130,  // SIGINT or SIGTERM; nothing half-written is left
};

// By the kind of the error (checkpoint/base/error.h); by the code where no kind is attached.
ExitCode ExitCodeFor(const absl::Status& status);

// The table above, for --help.
absl::string_view ExitCodesHelp();

}  // namespace waypoint

#endif  // TOOLS_EXIT_CODES_H_
