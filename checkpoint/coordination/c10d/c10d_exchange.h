#ifndef CHECKPOINT_COORDINATION_C10D_C10D_EXCHANGE_H_
#define CHECKPOINT_COORDINATION_C10D_C10D_EXCHANGE_H_

// Exchange between processes: sends and receives of a Gloo process group of our own, beside whatever groups the trainer
// has.  All ranks make it at the same point of their calls.

#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "checkpoint/coordination/c10d/c10d_coordinator.h"
#include "checkpoint/coordination/exchange.h"

namespace waypoint {

class C10dExchange : public Exchange {
 public:
  // `coordinator` is borrowed, and outlives this on every rank, since its store is used.  E_RANK on all ranks when one
  // of them cannot connect within `timeout`. The network interface: as NewGlooGroup.
  static absl::StatusOr<std::unique_ptr<C10dExchange>> Create(C10dCoordinator& coordinator, absl::Duration timeout);
  ~C10dExchange() override;

 protected:
  absl::Status Move(const RankParts<const char>& send, const RankParts<char>& receive, absl::Duration timeout) override;

 private:
  struct Group;
  C10dExchange(C10dCoordinator& coordinator, std::unique_ptr<Group> group);

  std::unique_ptr<Group> group_;  // null after a failure: its connections are not to be trusted
};

}  // namespace waypoint

#endif  // CHECKPOINT_COORDINATION_C10D_C10D_EXCHANGE_H_
