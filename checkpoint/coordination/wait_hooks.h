#ifndef CHECKPOINT_COORDINATION_WAIT_HOOKS_H_
#define CHECKPOINT_COORDINATION_WAIT_HOOKS_H_

// What a process wants to know, and to say, while it waits for other ranks.
//
//   WaitHooks hooks;
//   hooks.cancelled = Interrupted;
//   hooks.waiting = [](const std::string& text) { std::cerr << text << std::endl; };
//
//   Wait wait(hooks);
//   while (!AllAreHere()) {
//     if (wait.IsCancelled()) { ... }
//     if (wait.IsNoticeDue()) { wait.Tell(absl::StrCat(RankList(missing), " to come")); }
//   }
// One thread for each Wait.

#include <functional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "checkpoint/coordination/deadline.h"

namespace waypoint {

struct WaitHooks {
  // Asked several times a second; true ends a wait with Cancelled.  Any thread.
  std::function<bool()> cancelled;
  // Told, in one line, for whom this process waits: after `patience`, and again from time to time.
  std::function<void(const std::string& text)> waiting;
  absl::Duration patience = absl::Seconds(2);
};

// "rank 1", "rank 1, 4", "rank 1, ..., 10 and 6 more".
std::string RankList(const std::vector<int>& ranks);

// One wait.  `hooks` is borrowed.
class Wait {
 public:
  explicit Wait(const WaitHooks& hooks) : hooks_(hooks), next_notice_(hooks.patience) {}

  bool IsCancelled() const { return hooks_.cancelled && hooks_.cancelled(); }
  // Once each time that something should be told.
  bool IsNoticeDue();
  // Prints "waiting for " and `whom`.
  void Tell(const std::string& whom) const { hooks_.waiting("waiting for " + whom); }

 private:
  const WaitHooks& hooks_;
  Deadline next_notice_;
};

}  // namespace waypoint

#endif  // CHECKPOINT_COORDINATION_WAIT_HOOKS_H_
