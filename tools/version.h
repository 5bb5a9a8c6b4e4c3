#ifndef TOOLS_VERSION_H_
#define TOOLS_VERSION_H_

// What --version of every tool says.  Thread-safe.

#include <string>

#include "absl/strings/string_view.h"

namespace waypoint {

// Of the whole project; checkpoints have versions of their own (FORMAT.md of each format).
constexpr char kVersion[] = "1.0.0";

// "convert (waypoint) 1.0.0" and a line of the formats that are linked in.  `libtorch`: its version, where the tool is
// linked with it; empty: it is not.
std::string VersionText(absl::string_view tool, absl::string_view libtorch = "");

}  // namespace waypoint

#endif  // TOOLS_VERSION_H_
