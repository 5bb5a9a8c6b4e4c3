#include "tools/version.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "checkpoint/base/registry.h"
#include "checkpoint/format/checkpoint_format.h"

namespace waypoint {

std::string VersionText(absl::string_view tool, absl::string_view libtorch) {
  std::string text = absl::StrCat(tool, " (waypoint) ", kVersion, "\n");
  const std::vector<std::string> formats = Registry<CheckpointFormat>::Global().Names();
  if (!formats.empty()) {
    absl::StrAppend(&text, "formats: ", absl::StrJoin(formats, ", "), "\n");
  }
  if (!libtorch.empty()) {
    absl::StrAppend(&text, "libtorch: ", libtorch, "\n");
  }
  return text;
}

}  // namespace waypoint
