#ifndef TOOLS_LAUNCH_RANKS_H_
#define TOOLS_LAUNCH_RANKS_H_

// Starts the ranks of a job on this machine and stays with them until all have ended.  Does not link libtorch.
//
// Lines that rank 0 prints come out as they are, those of rank 3 behind "[3] "; an error that several ranks print comes
// out once (rank_output.h).  SIGINT, SIGTERM and SIGHUP go to all
// ranks, which are process groups of their own, so that a terminal's Ctrl-C reaches each once; a second signal kills
// them.  When one rank fails the others have a moment to find that out and say so themselves, are then asked to end
// (SIGTERM) and, after a while, killed.  Ranks end with this process, however it ends.
// One thread, one call at a time: it blocks signals and waits for all children of the process.

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace waypoint {

struct LaunchRequest {
  int ranks = 1;
  // Program and arguments, the same for every rank.
  std::vector<std::string> command;
  // Where rank 0 serves; 0: any free port.
  int port = 0;
  // From a rank's failure to SIGTERM for the others.
  absl::Duration notice = absl::Seconds(3);
  // From that to SIGKILL for those that are left.
  absl::Duration grace = absl::Seconds(20);
};

struct LaunchReport {
  // 0; or what the failed rank returned, 128 + the signal that killed it; or 130, where the ranks stopped by a signal,
  // ours or their own.
  int exit_code = 0;
  // The rank that failed first, and how: "rank 2 was killed by signal 9"; not one that told of another one's failure
  // (E_RANK), which may be quicker.  One that gave no sign and had to be killed after
  // others had failed is named as well.  Empty when none did.
  std::string failure;
  // errno of the first write to standard output that failed; 0: none did.  The ranks go on without.
  int output_error = 0;
  // Rank 0 wrote to standard output.
  bool first_rank_printed = false;
};

// Errors: E_REQUEST for a program that cannot be run or a number of ranks below 1, E_IO when processes or pipes cannot
// be made.
absl::StatusOr<LaunchReport> LaunchRanks(const LaunchRequest& request);

}  // namespace waypoint

#endif  // TOOLS_LAUNCH_RANKS_H_
