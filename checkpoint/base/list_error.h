#ifndef CHECKPOINT_BASE_LIST_ERROR_H_
#define CHECKPOINT_BASE_LIST_ERROR_H_

// Errors whose message has several lines.  MakeError makes one line of every message, whatever names are in it; what
// is a list is said here, so that no name can begin a line.
//
//   return MakeListError(ErrorKind::kRequest, "config has 2 problems:", problems);
//
// Thread-safe.

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "checkpoint/base/error.h"

namespace waypoint {

// `head`; then each of `lines`, and `remedy` where there is one, indented on a line of its own.
absl::Status MakeListError(ErrorKind kind, absl::string_view head, absl::Span<const std::string> lines,
                           absl::string_view remedy = "");

// MakeError for a message that quotes what other errors say: their lists stay lists.
absl::Status MakeQuotingError(ErrorKind kind, absl::string_view message);

}  // namespace waypoint

#endif  // CHECKPOINT_BASE_LIST_ERROR_H_
