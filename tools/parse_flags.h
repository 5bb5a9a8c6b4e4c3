#ifndef TOOLS_PARSE_FLAGS_H_
#define TOOLS_PARSE_FLAGS_H_

// How every tool ends for --help and for a wrong command line.  Does not link libtorch.  One thread.

#include <ostream>

#include "absl/types/optional.h"
#include "tools/exit_codes.h"

namespace CLI {
class App;
}  // namespace CLI

namespace waypoint {

// What the program is to end with: kExitOk, after --help, which goes to `out`; or kExitRequest, reported as by
// ReportError, as JSON too where --json is among the arguments.  Empty: the line is parsed, go on.
absl::optional<ExitCode> ParseFlags(CLI::App& app, int argc, const char* const* argv, std::ostream& out,
                                    std::ostream& err);

}  // namespace waypoint

#endif  // TOOLS_PARSE_FLAGS_H_
