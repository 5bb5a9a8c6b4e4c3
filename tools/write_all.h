#ifndef TOOLS_WRITE_ALL_H_
#define TOOLS_WRITE_ALL_H_

// write(2) until all is written.  Does not link libtorch.  Thread-safe.

#include "absl/strings/string_view.h"

namespace waypoint {

// 0, or the errno of what went wrong.  Waits where the descriptor does not block, as a terminal or a pipe that somebody
// else made so.  With `interruptible`, EINTR where a signal asks this process to stop (Interrupted) while it waits.
int WriteAll(int fd, absl::string_view text, bool interruptible = false);

}  // namespace waypoint

#endif  // TOOLS_WRITE_ALL_H_
