#include "engine/shutdown_signal.h"

#include <csignal>

namespace waypoint::engine {
namespace {

// A handler has no argument of its own to find its object by.
volatile std::sig_atomic_t received_signal = 0;
struct sigaction previous_interrupt;
struct sigaction previous_terminate;

void RestorePrevious() {
  sigaction(SIGINT, &previous_interrupt, nullptr);
  sigaction(SIGTERM, &previous_terminate, nullptr);
}

void Note(int signal) {
  received_signal = signal;
  RestorePrevious();  // sigaction is async-signal-safe (POSIX.1-2017, 2.4.3)
}

}  // namespace

ShutdownSignal::ShutdownSignal() {
  received_signal = 0;
  struct sigaction action = {};
  action.sa_handler = Note;
  // A save that runs when the signal comes must not see its system calls fail with EINTR.
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaddset(&action.sa_mask, SIGINT);
  sigaddset(&action.sa_mask, SIGTERM);
  // Read both before either is replaced: the handler restores both.
  sigaction(SIGINT, nullptr, &previous_interrupt);
  sigaction(SIGTERM, nullptr, &previous_terminate);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

ShutdownSignal::~ShutdownSignal() {
  // After a signal the previous handlers are back already, and may have been changed since by others.
  if (received_signal == 0) {
    RestorePrevious();
  }
}

int ShutdownSignal::received() const { return received_signal; }

}  // namespace waypoint::engine
