#ifndef TOOLS_INSPECT_COMMAND_H_
#define TOOLS_INSPECT_COMMAND_H_

// `inspect PATH`: what a checkpoint of any format holds, whether it reads back, and how it differs from another one.
//
// Does not link libtorch.  One thread.

#include <cstddef>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "checkpoint/format/checkpoint_format.h"
#include "checkpoint/storage/file_system.h"
#include "tools/exit_codes.h"

namespace waypoint {

struct InspectRequest {
  std::string path;  // resolved
  std::string diff;  // empty: none
  // Differing tensors that the text spells out.
  size_t diff_limit = 10;
  std::string format = "auto";
  // Compare weights only.
  bool ignore_optimizer = false;
  bool verify = false;
  bool carry_unknown = false;
  bool json = false;
  // For PATH, and for the other checkpoint of a comparison as far as its format has them.
  FormatOptionValues format_options;
  // For PATH alone.
  std::vector<std::string> strip_prefixes;
};

struct InspectEnvironment {
  FileSystem& fs;
  std::ostream& out;
  std::ostream& err;
  bool progress = false;
};

// `*equal` is false when a comparison was asked for and found a difference.
absl::Status Inspect(const InspectRequest& request, const InspectEnvironment& environment, bool* equal);

// main() of the tool.
ExitCode InspectMain(int argc, const char* const* argv, const InspectEnvironment& environment);

}  // namespace waypoint

#endif  // TOOLS_INSPECT_COMMAND_H_
