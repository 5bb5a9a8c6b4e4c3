#ifndef CHECKPOINT_COORDINATION_C10D_C10D_STORE_H_
#define CHECKPOINT_COORDINATION_C10D_C10D_STORE_H_

// How a process finds the store of its job, for all that speak through it.  Thread-safe.

#include <string>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "checkpoint/coordination/c10d/c10d_options.h"

namespace waypoint {

// A connection of its own: calls on one do not wait for calls on another.  E_REQUEST for a rank outside of the job or
// an impossible port, E_RANK when the store cannot be reached.
//
// The store's server reads each message to its end before it looks at another, without a deadline of its own.  What is
// served from here cuts off a connection on which nothing moves for `stall_timeout`.
absl::StatusOr<c10::intrusive_ptr<c10d::TCPStore>> ConnectC10dStore(const C10dOptions& options);

// From now on a call whose answer takes longer than `limit` throws, even where the server is stopped.  Other stores of
// this process at the same port may get the same limit.  Throws what c10d throws.
void LimitAnswers(c10d::TCPStore& store, const C10dOptions& options, absl::Duration limit);

// A key that is there once ConnectC10dStore has returned.
std::string HelloKey(const C10dOptions& options);

// The first line of what c10d threw; the rest is a stack.
std::string FirstLine(absl::string_view what);

}  // namespace waypoint

#endif  // CHECKPOINT_COORDINATION_C10D_C10D_STORE_H_
