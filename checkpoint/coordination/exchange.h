#ifndef CHECKPOINT_COORDINATION_EXCHANGE_H_
#define CHECKPOINT_COORDINATION_EXCHANGE_H_

// How ranks hand each other bytes of tensors: rounds in which every rank sends something to every rank.
//
//   absl::Status packed = Pack(round, outgoing);
//   WAYPOINT_RETURN_IF_ERROR(exchange.AllToAll("round 7", packed, {outgoing, sent}, {incoming, received}, timeout));
//
// Contract of every implementation
// - Every rank makes the same calls, with the same names, in the same order, and in step with its calls of the
//   coordinator, which the exchange uses too.
// - A call returns OK on all ranks or an error on all ranks, as Coordinator's calls do: a rank that passed an error
//   gets its own back, the others E_RANK with its number and message, and the exchange stays usable; a rank that dies
//   or stays away is an E_RANK that names it, and ends the job.
// - Ranks that disagree about how many bytes go from one to another all get E_RANK before any byte moves.
// - An implementation holds no bytes beyond the caller's buffers, and is done with those when a call returns.
// One thread at a time.

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "checkpoint/coordination/coordinator.h"

namespace waypoint {

// A buffer that is cut into one part per rank, in the order of ranks.
template <typename Char>
struct RankParts {
  absl::Span<Char> bytes;
  std::vector<int64_t> sizes;  // by rank; they add up to bytes.size()
};

class Exchange {
 public:
  virtual ~Exchange() = default;

  Coordinator& ranks() { return ranks_; }

  // E_REQUEST when the sizes do not fit the buffers.
  absl::Status AllToAll(absl::string_view name, const absl::Status& mine, const RankParts<const char>& send,
                        const RankParts<char>& receive, absl::Duration timeout);

 protected:
  // `ranks` is borrowed.
  explicit Exchange(Coordinator& ranks) : ranks_(ranks) {}

  // Moves the bytes.  All ranks are here and sizes fit; when one fails, the others are told afterwards.
  virtual absl::Status Move(const RankParts<const char>& send, const RankParts<char>& receive,
                            absl::Duration timeout) = 0;

 private:
  Coordinator& ranks_;
};

// A job of one rank.
class LocalExchange : public Exchange {
 public:
  explicit LocalExchange(Coordinator& ranks) : Exchange(ranks) {}

 protected:
  absl::Status Move(const RankParts<const char>& send, const RankParts<char>& receive, absl::Duration timeout) override;
};

}  // namespace waypoint

#endif  // CHECKPOINT_COORDINATION_EXCHANGE_H_
