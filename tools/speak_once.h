#ifndef TOOLS_SPEAK_ONCE_H_
#define TOOLS_SPEAK_ONCE_H_

// Which of several ranks that failed together says why.  Does not link libtorch.  One thread.

#include "absl/status/status.h"
#include "checkpoint/coordination/coordinator.h"

namespace waypoint {

// Set by a launcher that sees what all ranks print, and prints an error once by itself: ranks then hide nothing.
constexpr char kLauncherSpeaks[] = "WAYPOINT_LAUNCHER_SPEAKS";

// What this rank prints of its error.
struct Speech {
  bool error = true;
  bool json = true;
};

// An error is printed by the rank whose own it is; where several have the same, or know only that another rank died,
// stayed away or was interrupted, by the first of them that asks here.  Of JSON there is one document.  Ranks that
// cannot reach the others speak.  With kLauncherSpeaks all speak, and rank 0 prints the document.  Ranks call it before
// they leave the job, each at most once.
Speech WhoSpeaks(Coordinator& ranks, const absl::Status& status);

}  // namespace waypoint

#endif  // TOOLS_SPEAK_ONCE_H_
