#ifndef CHECKPOINT_BASE_FILE_NAME_H_
#define CHECKPOINT_BASE_FILE_NAME_H_

// What a file may call another file.  Thread-safe.

#include "absl/strings/ascii.h"
#include "absl/strings/string_view.h"

namespace waypoint {

// [A-Za-z0-9_][A-Za-z0-9._-]*, at most 255 bytes: no separator, no "..", nothing hidden, nothing that a shell or
// another file system reads differently.
inline bool IsPlainFileName(absl::string_view name) {
  if (name.empty() || name.size() > 255 || !(absl::ascii_isalnum(name[0]) || name[0] == '_')) {
    return false;
  }
  for (const char c : name) {
    if (!absl::ascii_isalnum(c) && c != '_' && c != '.' && c != '-') {
      return false;
    }
  }
  return true;
}

}  // namespace waypoint

#endif  // CHECKPOINT_BASE_FILE_NAME_H_
