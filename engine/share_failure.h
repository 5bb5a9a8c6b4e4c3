#ifndef ENGINE_SHARE_FAILURE_H_
#define ENGINE_SHARE_FAILURE_H_

// How the ranks of a job find out why it ends.  One fails; the others then fail too, for no reason but that it is gone,
// and each knows something else about it.
//
//   return ShareFailure(ranks, "last words", status, /*gone=*/!groups.failure().ok(), absl::Seconds(10));

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "checkpoint/coordination/coordinator.h"

namespace waypoint::engine {

// All ranks call it; OK when all passed OK.  A rank that failed by itself, with anything but E_RANK, gets its own error
// back.  All others get E_RANK of the rank that knows most: first one that failed by itself, which is named; then what
// ranks were told about another one; last, with `gone`, that connections ended in the middle of a step, which names
// nobody.  Of those that know as much, a rank's own counts.  When the ranks cannot be reached, a rank gets its own
// error and, unless it failed by itself, why.
//
// `beside`, one line, goes along; `all_beside` gets those of all ranks, by rank, and nothing when they cannot be
// reached.
absl::Status ShareFailure(Coordinator& ranks, absl::string_view name, const absl::Status& mine, bool gone,
                          absl::Duration timeout, absl::string_view beside = {},
                          std::vector<std::string>* all_beside = nullptr);

}  // namespace waypoint::engine

#endif  // ENGINE_SHARE_FAILURE_H_
