#ifndef ENGINE_SHUTDOWN_SIGNAL_H_
#define ENGINE_SHUTDOWN_SIGNAL_H_

// SIGINT, SIGTERM and SIGHUP as a question that a training loop asks after each step.
//
//   ShutdownSignal shutdown;
//   while (shutdown.received() == 0) { ... }
//
// The first signal is only noted.  What comes within `echo` of it is the same wish: a terminal's Ctrl-C reaches ranks
// and their launcher, which passes it on.  A later one does what it would have done without us (by default, it kills).
// SIGHUP is left alone where it is ignored, as under nohup.  The destructor restores the previous handlers.
// At most one object at a time; construct and destroy on one thread, ask on any.

#include <ctime>

namespace waypoint::engine {

class ShutdownSignal {
 public:
  explicit ShutdownSignal(time_t echo_seconds = 1);
  ~ShutdownSignal();
  ShutdownSignal(const ShutdownSignal&) = delete;
  ShutdownSignal& operator=(const ShutdownSignal&) = delete;

  // SIGINT, SIGTERM, SIGHUP, or 0.
  int received() const;
};

}  // namespace waypoint::engine

#endif  // ENGINE_SHUTDOWN_SIGNAL_H_
