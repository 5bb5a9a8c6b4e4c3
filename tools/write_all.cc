#include "tools/write_all.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>

#include "tools/command_line.h"

namespace waypoint {

int WriteAll(int fd, absl::string_view text, bool interruptible) {
  while (!text.empty()) {
    const ssize_t written = write(fd, text.data(), text.size());
    if (written >= 0) {
      text.remove_prefix(written);
    } else if (errno == EAGAIN) {
      struct pollfd writable = {fd, POLLOUT, 0};
      poll(&writable, 1, -1);
    } else if (errno != EINTR) {
      return errno;
    }
    if (written < 0 && interruptible && Interrupted()) {
      return EINTR;
    }
  }
  return 0;
}

}  // namespace waypoint
