#ifndef CHECKPOINT_FORMAT_HELD_TENSORS_H_
#define CHECKPOINT_FORMAT_HELD_TENSORS_H_

// How ranks learn what all of them hold, and plan by it: once, as long as nothing changes.
//
//   WAYPOINT_ASSIGN_OR_RETURN(const std::shared_ptr<const SavePlan> plan,
//                             PlanTogether<SavePlan>("distributed", ranks, timeout, cache, held, MakePlan));
//
// Thread-safe but for PlanCache: one thread.

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "checkpoint/coordination/coordinator.h"
#include "checkpoint/tensor/manifest.h"

namespace waypoint {

std::string SerializeHeld(const Manifest& held);
// Errors: E_SCHEMA, E_DTYPE, E_DUP_KEY, E_OVERFLOW.
absl::StatusOr<Manifest> ParseHeld(absl::string_view bytes);

// The newest plan of each kind, with what it was made for.  One per rank and job, kept between saves.
class PlanCache {
 public:
  int64_t hits() const { return hits_; }

 private:
  friend class PlanRequest;
  struct Entry {
    std::string key;
    std::shared_ptr<const void> plan;
  };
  std::map<std::string, Entry> entries_;
  int64_t hits_ = 0;
};

// The part of PlanTogether that does not depend on the plan's type.
class PlanRequest {
 public:
  // `cache` may be null.
  PlanRequest(std::string kind, Coordinator& ranks, absl::Duration timeout, PlanCache* cache)
      : kind_(std::move(kind)), ranks_(ranks), timeout_(timeout), cache_(cache) {}

  // One small message.  True when every rank still has the plan for what all ranks hold now.
  absl::StatusOr<bool> IsCached(const absl::StatusOr<std::string>& held);
  std::shared_ptr<const void> cached() const { return cache_->entries_[kind_].plan; }
  // What every rank holds.
  absl::StatusOr<std::vector<std::string>> Gather(const std::string& held);
  void Keep(std::shared_ptr<const void> plan);

 private:
  const std::string kind_;
  Coordinator& ranks_;
  const absl::Duration timeout_;
  PlanCache* const cache_;
  std::string key_;
};

// All ranks call it, each with what it holds (or why it cannot say); `plan` makes the same of the same input.  An error
// of one rank reaches all.
template <typename Plan>
absl::StatusOr<std::shared_ptr<const Plan>> PlanTogether(
    const std::string& kind, Coordinator& ranks, absl::Duration timeout, PlanCache* cache,
    const absl::StatusOr<Manifest>& held,
    const std::function<absl::StatusOr<Plan>(const std::vector<std::string>& held_by_rank)>& plan) {
  PlanRequest request(kind, ranks, timeout, cache);
  const auto mine = held.ok() ? absl::StatusOr<std::string>(SerializeHeld(*held)) : held.status();
  const absl::StatusOr<bool> cached = request.IsCached(mine);
  if (!cached.ok()) {
    return cached.status();
  }
  if (*cached) {
    return std::static_pointer_cast<const Plan>(request.cached());
  }
  const absl::StatusOr<std::vector<std::string>> all = request.Gather(*mine);
  if (!all.ok()) {
    return all.status();
  }
  absl::StatusOr<Plan> made = plan(*all);
  if (!made.ok()) {
    return made.status();
  }
  auto shared = std::make_shared<const Plan>(*std::move(made));
  request.Keep(shared);
  return shared;
}

}  // namespace waypoint

#endif  // CHECKPOINT_FORMAT_HELD_TENSORS_H_
