#ifndef MODELS_LLAMA_REFERENCE_CHECKLIST_H_
#define MODELS_LLAMA_REFERENCE_CHECKLIST_H_

// checklist.chk: the MD5 of each file of a directory, as Meta's download script leaves it.
//
//   d09d99687b44900324631336d4e22361  params.json       md5sum, text
//   d09d99687b44900324631336d4e22361 *params.json       md5sum, binary
//   MD5 (params.json) = d09d99687b44900324631336d4e22361   BSD
//
// Thread-safe.

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace waypoint::models {

struct ChecklistEntry {
  std::string name;  // of a file in the directory of the list; folders that stood before it are left out
  std::string md5;   // 32 lower-case hexadecimal digits
};

// Empty lines and comments ("#") count for nothing.  `path` is for messages.
// Errors: E_SCHEMA for a line that is none of the above, E_DUP_KEY for a name that has two checksums, E_HEADER for what
// is no list at all (a web page, a pointer of git-lfs).
absl::StatusOr<std::vector<ChecklistEntry>> ParseChecklist(absl::string_view text, absl::string_view path);

}  // namespace waypoint::models

#endif  // MODELS_LLAMA_REFERENCE_CHECKLIST_H_
