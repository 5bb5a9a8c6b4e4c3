#include "engine/shutdown_signal.h"

#include <csignal>
#include <iterator>

namespace waypoint::engine {
namespace {

constexpr int kSignals[] = {SIGINT, SIGTERM, SIGHUP};

// A handler has no argument of its own to find its object by.
volatile std::sig_atomic_t received_signal = 0;
struct timespec received_at;
time_t echo;
struct sigaction previous[std::size(kSignals)];

void RestorePrevious() {
  for (size_t i = 0; i < std::size(kSignals); ++i) {
    sigaction(kSignals[i], &previous[i], nullptr);
  }
}

// Whether less than `echo` seconds have passed.
bool IsEcho(const struct timespec& now) {
  const time_t seconds = now.tv_sec - received_at.tv_sec;
  return seconds < echo || (seconds == echo && now.tv_nsec < received_at.tv_nsec);
}

// sigaction, clock_gettime and raise are async-signal-safe (POSIX.1-2017, 2.4.3); all three signals are blocked here.
void Note(int signal) {
  struct timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  if (received_signal == 0) {
    received_at = now;
    received_signal = signal;
  } else if (!IsEcho(now)) {
    RestorePrevious();
    raise(signal);
  }
}

}  // namespace

ShutdownSignal::ShutdownSignal(time_t echo_seconds) {
  received_signal = 0;
  echo = echo_seconds;
  struct sigaction action = {};
  action.sa_handler = Note;
  // A save that runs when the signal comes must not see its system calls fail with EINTR.
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  for (const int signal : kSignals) {
    sigaddset(&action.sa_mask, signal);
  }
  // Read all before one is replaced: the handler restores all.
  for (size_t i = 0; i < std::size(kSignals); ++i) {
    sigaction(kSignals[i], nullptr, &previous[i]);
  }
  for (size_t i = 0; i < std::size(kSignals); ++i) {
    if (kSignals[i] != SIGHUP || previous[i].sa_handler != SIG_IGN) {
      sigaction(kSignals[i], &action, nullptr);
    }
  }
}

ShutdownSignal::~ShutdownSignal() {
  // Handlers that are not ours any more were given back by a second signal, or replaced since by others.
  for (size_t i = 0; i < std::size(kSignals); ++i) {
    struct sigaction current = {};
    if (sigaction(kSignals[i], nullptr, &current) == 0 && current.sa_handler == Note) {
      sigaction(kSignals[i], &previous[i], nullptr);
    }
  }
}

int ShutdownSignal::received() const { return received_signal; }

}  // namespace waypoint::engine
