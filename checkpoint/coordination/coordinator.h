#ifndef CHECKPOINT_COORDINATION_COORDINATOR_H_
#define CHECKPOINT_COORDINATION_COORDINATOR_H_

// How the ranks of a job speak to each other about a checkpoint: a few small messages, never tensors.
//
//   WAYPOINT_ASSIGN_OR_RETURN(const std::string path, ranks.Broadcast("latest", newest, /*root=*/0, timeout));
//
//   const absl::Status mine = WriteMyFiles(path);
//
//   // Nobody goes on when one failed.
//   WAYPOINT_RETURN_IF_ERROR(ranks.Agree("files written", mine, timeout));
//
// Contract of every implementation
// - Every rank makes the same calls, with the same names, in the same order.  A name is part of the message: ranks
//   that meet at different names all get E_RANK with both names, instead of each other's bytes.
// - A call returns OK on all ranks or an error on all ranks.  A rank that fails, dies or stays away is an error
//   (E_RANK, naming that rank and, where it could still speak, its own error) for all the others at the latest when
//   the timeout ends.  After an error the coordinator is done for: every later call fails at once with the same error.
// - Messages are small: at most kMaxMessageBytes.  A larger one is not sent, but that it is too large is: its rank gets
//   E_REQUEST, all others E_RANK that names it and says so, and the coordinator stays usable.
// - An implementation owns its connection and never uses the trainer's own process group, which may be in the middle
//   of a step.
// One thread at a time.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace waypoint {

class Coordinator {
 public:
  static constexpr int64_t kMaxMessageBytes = int64_t{64} << 20;

  virtual ~Coordinator() = default;

  // 0 <= rank < world_size; both never change.
  virtual int rank() const = 0;
  virtual int world_size() const = 0;

  // Returns when every rank has called it.
  virtual absl::Status Barrier(absl::string_view name, absl::Duration timeout) = 0;

  // What `root` passed; the `bytes` of all other ranks are ignored.
  virtual absl::StatusOr<std::string> Broadcast(absl::string_view name, const std::string& bytes, int root,
                                                absl::Duration timeout) = 0;

  // What every rank passed, by rank.
  virtual absl::StatusOr<std::vector<std::string>> AllGather(absl::string_view name, const std::string& bytes,
                                                             absl::Duration timeout) = 0;

  // E_RANK naming a rank whose process is known to be gone, for who waits for others by other means.  Says nothing of
  // ranks that are stopped or slow.  Any thread, also while another one is in a call.
  virtual absl::Status CheckAlive() { return absl::OkStatus(); }

  // True on one rank: the first that asks for `name` (letters, digits, '-').  No call that all make: it does not wait,
  // and still works after an error; who cannot reach the others is first.  Here: rank 0.
  virtual bool IsFirst(absl::string_view name) { return rank() == 0; }

  // OK when every rank passed OK.  A rank that passed an error gets its own back; all others get E_RANK with the rank
  // and the message of the first one that failed.  The coordinator stays usable: the failure was talked about.  When
  // the ranks cannot be reached, a rank that passed an error still gets its own back, and reads why in it.
  absl::Status Agree(absl::string_view name, const absl::Status& mine, absl::Duration timeout);

  // AllGather and Agree in one: what every rank passed when none passed an error, else the same error as Agree.
  absl::StatusOr<std::vector<std::string>> AllGatherIfOk(absl::string_view name,
                                                         const absl::StatusOr<std::string>& mine,
                                                         absl::Duration timeout);
};

// E_REQUEST unless 0 <= rank < world_size.  For implementations.
absl::Status CheckRank(int rank, int world_size);

// For implementations: E_REQUEST for a root that is no rank, which is so on all ranks; for a message over
// kMaxMessageBytes, which the others must be told; and what those get then.
absl::Status CheckRoot(absl::string_view name, int root, int world_size);
absl::Status CheckMessage(absl::string_view name, absl::string_view bytes);
absl::Status RefusedMessage(int rank, absl::string_view why);

// Rank 0 of 1: a job of one process.  Every call returns at once.
class LocalCoordinator : public Coordinator {
 public:
  int rank() const override { return 0; }
  int world_size() const override { return 1; }
  absl::Status Barrier(absl::string_view name, absl::Duration timeout) override;
  absl::StatusOr<std::string> Broadcast(absl::string_view name, const std::string& bytes, int root,
                                        absl::Duration timeout) override;
  absl::StatusOr<std::vector<std::string>> AllGather(absl::string_view name, const std::string& bytes,
                                                     absl::Duration timeout) override;
};

}  // namespace waypoint

#endif  // CHECKPOINT_COORDINATION_COORDINATOR_H_
