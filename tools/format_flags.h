#ifndef TOOLS_FORMAT_FLAGS_H_
#define TOOLS_FORMAT_FLAGS_H_

// The options that formats declare for themselves, as flags of a command line.  Does not link libtorch.  Thread-safe.

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "checkpoint/format/checkpoint_format.h"

namespace CLI {
class App;
}  // namespace CLI

namespace waypoint {

struct FormatChoice {
  std::string name;
  std::string description;
  std::vector<FormatOption> options;
};

// The linked formats, by name.
std::vector<FormatChoice> LinkedFormats();

enum class FormatFlags { kLoad, kLoadAndSave };

// Adds --name for every option of the formats, in --help under the format's name, and puts what is given into *values,
// which lives until the line is parsed.  An option that several formats have is one flag, under the names of all.
void AddFormatFlags(const std::vector<FormatChoice>& formats, FormatFlags which, CLI::App& app,
                    FormatOptionValues* values);

// Adds --strip-prefix, which may be given several times (LoadOptions::strip_prefixes).
void AddStripPrefixFlag(CLI::App& app, std::vector<std::string>* prefixes);

// Those of `values` for reading `from`, after a check that each is for reading it or, unless `to` is null, for writing
// `to`.  Errors: E_REQUEST naming the first that is for neither, with the choices.
absl::StatusOr<FormatOptionValues> LoadFormatOptions(const CheckpointFormat& from, const CheckpointFormat* to,
                                                     const FormatOptionValues& values);

}  // namespace waypoint

#endif  // TOOLS_FORMAT_FLAGS_H_
