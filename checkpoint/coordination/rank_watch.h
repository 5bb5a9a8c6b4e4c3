#ifndef CHECKPOINT_COORDINATION_RANK_WATCH_H_
#define CHECKPOINT_COORDINATION_RANK_WATCH_H_

// How rank 0 sees at once that the process of another rank is gone, on whatever host.
//
//   WAYPOINT_ASSIGN_OR_RETURN(auto watch, RankWatch::Create(host, world_size, host_timeout, on_death));      // rank 0
//   WAYPOINT_ASSIGN_OR_RETURN(auto watched, WatchedRank::Connect(host, invitation, rank, timeout));    // the others
//
// Each rank holds a TCP connection to rank 0.  The kernel closes it when the process ends, however it ends, and keeps
// it while the process is stopped, swapped out or busy: nothing that merely is slow is taken for dead, and no clocks
// are compared.  A host that is gone closes nothing; keep-alive probes, which a living kernel answers, find that out.

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace waypoint {

// One thread calls; `on_death` runs in another.
class RankWatch {
 public:
  // Calls `on_death` with a rank whose connection ended without WatchedRank's farewell, or whose host has answered
  // nothing for about `host_timeout`, once.  Listens where others find `host` (listen_address.h).  E_RANK when there is
  // no port to be had, E_LIMIT without a thread.
  static absl::StatusOr<std::unique_ptr<RankWatch>> Create(const std::string& host, int world_size,
                                                           absl::Duration host_timeout,
                                                           std::function<void(int rank)> on_death);
  ~RankWatch();

  // What WatchedRank::Connect must be given; a word, made so that nobody else's connection counts as a rank's.
  const std::string& invitation() const { return invitation_; }

 private:
  struct Connection {
    int file = -1;
    int rank = -1;  // until it has introduced itself
    std::string hello;
  };

  RankWatch(int world_size, absl::Duration host_timeout, std::function<void(int rank)> on_death)
      : world_size_(world_size), host_timeout_(host_timeout), on_death_(std::move(on_death)) {}
  absl::Status Listen(const std::string& host);
  void Watch();
  absl::Status WatchUntilStopped();
  void Accept();
  // False: the connection is over.
  bool Read(Connection& connection) const;

  const int world_size_;
  const absl::Duration host_timeout_;
  const std::function<void(int rank)> on_death_;
  std::string invitation_;
  std::string secret_;
  int listener_ = -1;
  int stop_ = -1;                        // an eventfd
  std::vector<Connection> connections_;  // the thread's
  std::thread thread_;
};

class WatchedRank {
 public:
  // E_RANK when rank 0 cannot be reached within `timeout`.
  static absl::StatusOr<std::unique_ptr<WatchedRank>> Connect(const std::string& host, const std::string& invitation,
                                                              int rank, absl::Duration timeout);
  // Takes leave of rank 0: what ends afterwards is no death.
  ~WatchedRank();

 private:
  explicit WatchedRank(int file) : file_(file) {}
  const int file_;
};

}  // namespace waypoint

#endif  // CHECKPOINT_COORDINATION_RANK_WATCH_H_
