#ifndef TOOLS_PARSE_FLAGS_H_
#define TOOLS_PARSE_FLAGS_H_

// How every tool ends for --help, --version and for a wrong command line.  Does not link libtorch.  One thread.

#include <ostream>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "tools/exit_codes.h"

namespace CLI {
class App;
}  // namespace CLI

namespace waypoint {

// What the program is to end with: kExitOk, after --help or --version (version.h), which go to `out`; or kExitRequest,
// reported as by ReportError, as JSON too where --json is among the arguments.  Empty: the line is parsed, go on.
absl::optional<ExitCode> ParseFlags(CLI::App& app, int argc, const char* const* argv, std::ostream& out,
                                    std::ostream& err, absl::string_view libtorch = "");

// The same for a caller that has no streams.  True: the line is parsed; false: *text is to be printed, and no more
// done. Errors: E_REQUEST.
absl::StatusOr<bool> ParseFlags(CLI::App& app, int argc, const char* const* argv, absl::string_view libtorch,
                                std::string* text);

}  // namespace waypoint

#endif  // TOOLS_PARSE_FLAGS_H_
