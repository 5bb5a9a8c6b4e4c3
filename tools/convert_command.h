#ifndef TOOLS_CONVERT_COMMAND_H_
#define TOOLS_CONVERT_COMMAND_H_

// `convert SRC DST`: finds the formats, plans, transfers within the memory bound, verifies, publishes, reports.
//
// The formats that are linked in are the ones it knows.  Does not link libtorch.  One thread.

#include <functional>
#include <ostream>
#include <string>

#include "absl/status/status.h"
#include "checkpoint/coordination/coordinator.h"
#include "checkpoint/storage/file_system.h"
#include "tools/command_line.h"
#include "tools/convert_request.h"
#include "tools/exit_codes.h"

namespace waypoint {

struct ConvertEnvironment {
  FileSystem& fs;
  std::ostream& out;
  std::ostream& err;
  // Show progress on `err`.
  bool progress = false;
  // For --verify logits, see run_logits.h.
  std::string logits_program;
  // Polled; true stops the conversion with Cancelled.
  std::function<bool()> interrupted = Interrupted;
  // The processes that share the work, all with the same request; null: this one alone.  Borrowed.
  Coordinator* ranks = nullptr;
};

// With several ranks all call it, rank 0 prints, and all get OK or an error together.  OK means that the output is
// published (or, with dry_run, that it could be).  After a failure the target is as it was.
absl::Status Convert(const ConvertRequest& request, const ConvertEnvironment& environment);

// main() of the tool.  Joins the other ranks where a launcher says that there are some.
ExitCode ConvertMain(int argc, const char* const* argv, const ConvertEnvironment& environment);

}  // namespace waypoint

#endif  // TOOLS_CONVERT_COMMAND_H_
