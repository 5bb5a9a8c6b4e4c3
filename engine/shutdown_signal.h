#ifndef ENGINE_SHUTDOWN_SIGNAL_H_
#define ENGINE_SHUTDOWN_SIGNAL_H_

// SIGINT and SIGTERM as a question that a training loop asks after each step.
//
//   ShutdownSignal shutdown;
//   while (shutdown.received() == 0) { ... }
//
// The first signal is only noted, and gives both signals back to their previous handlers: a second one does what it
// would have done without us (by default, it kills).  The destructor restores the previous handlers.
// At most one object at a time; construct and destroy on one thread, ask on any.

namespace waypoint::engine {

class ShutdownSignal {
 public:
  ShutdownSignal();
  ~ShutdownSignal();
  ShutdownSignal(const ShutdownSignal&) = delete;
  ShutdownSignal& operator=(const ShutdownSignal&) = delete;

  // SIGINT, SIGTERM, or 0.
  int received() const;
};

}  // namespace waypoint::engine

#endif  // ENGINE_SHUTDOWN_SIGNAL_H_
