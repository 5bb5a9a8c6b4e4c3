#ifndef TOOLS_STANDARD_OUTPUT_H_
#define TOOLS_STANDARD_OUTPUT_H_

// What a tool prints for others to read, and whether it got there.  Does not link libtorch.  One thread.
//
//   int main(int argc, char** argv) {
//     return waypoint::RunTool([&] { return waypoint::InspectMain(argc, argv, {..., std::cout, std::cerr}); });
//   }
//
// A report that nobody can read is a failure: on a full disk, or with standard output closed, a tool ends with E_IO and
// its exit code.  Where the reader of a pipe went away, it ends as programs do, by SIGPIPE and without a word.

#include <functional>
#include <ostream>

#include "absl/status/status.h"

namespace waypoint {

// Runs `tool`, which prints to std::cout and std::cerr and returns an exit code, after PrepareProcess.  Where it
// returns 0 and not all that it printed could be written, and where it throws for want of memory, says so and returns
// kExitIo.
int RunTool(const std::function<int()>& tool);

// Flushes.  OK when all of what `out` was given is written: a tool asks after each report, to say what is done in spite
// of it.  E_IO, with the reason where `out` is std::cout of RunTool.
absl::Status CheckWritten(std::ostream& out);

// E_IO for an errno of a write to standard output, for who writes there without std::cout.  Does not return for EPIPE:
// the process ends as by SIGPIPE.
absl::Status OutputError(int error_number);

}  // namespace waypoint

#endif  // TOOLS_STANDARD_OUTPUT_H_
