#include "tools/parse_flags.h"

#include <algorithm>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "checkpoint/base/error.h"
#include "tools/command_line.h"
#include "tools/version.h"

namespace waypoint {
namespace {

// CLI11 asks for what is required before it looks at flags that it does not know, which are the likelier mistake.
std::string Reason(const CLI::App& app, const CLI::ParseError& error) {
  if (dynamic_cast<const CLI::RequiredError*>(&error) != nullptr) {
    for (const std::string& argument : app.remaining(/*recurse=*/true)) {
      if (absl::StartsWith(argument, "-") && argument != "--") {
        return absl::StrCat("The following argument was not expected: ", argument);
      }
    }
  }
  return error.what();
}

}  // namespace

absl::StatusOr<bool> ParseFlags(CLI::App& app, int argc, const char* const* argv, absl::string_view libtorch,
                                std::string* text) {
  app.set_version_flag("--version", VersionText(app.get_name(), libtorch), "print versions and exit");
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    *text = app.help();
    return false;
  } catch (const CLI::CallForVersion& version) {
    *text = version.what();
    return false;
  } catch (const CLI::ParseError& error) {
    return MakeError(ErrorKind::kRequest, absl::StrCat(Reason(app, error), " (--help lists the flags)"));
  }
  return true;
}

absl::optional<ExitCode> ParseFlags(CLI::App& app, int argc, const char* const* argv, std::ostream& out,
                                    std::ostream& err, absl::string_view libtorch) {
  std::string text;
  const absl::StatusOr<bool> parsed = ParseFlags(app, argc, argv, libtorch, &text);
  if (!parsed.ok()) {
    const bool json = std::find(argv, argv + argc, absl::string_view("--json")) != argv + argc;
    return ReportError(parsed.status(), json, out, err);
  }
  if (*parsed) {
    return absl::nullopt;
  }
  out << text << std::flush;
  return kExitOk;
}

}  // namespace waypoint
