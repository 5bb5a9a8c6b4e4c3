#ifndef CHECKPOINT_COORDINATION_STORE_COORDINATOR_H_
#define CHECKPOINT_COORDINATION_STORE_COORDINATOR_H_

// A Coordinator over anything that keeps named messages which all ranks see: every call is a message per rank, and
// polling with a deadline, so that no rank blocks in the store.
//
// Whether a call succeeded is decided once, for all ranks, by whoever comes to an end first.

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "checkpoint/coordination/coordinator.h"
#include "checkpoint/coordination/wait_hooks.h"

namespace waypoint {

// One thread, but for AnyDead.  Errors of any kind end the job of this rank.
class MessageStore {
 public:
  virtual ~MessageStore() = default;
  // A key that is not there yet.
  virtual absl::Status Set(const std::string& key, const std::string& bytes) = 0;
  // A key that is there.
  virtual absl::StatusOr<std::string> Get(const std::string& key) = 0;
  virtual absl::StatusOr<bool> HasAll(const std::vector<std::string>& keys) = 0;
  // Sets the key unless it is there; what is there afterwards.  Of several at once, one wins.
  virtual absl::StatusOr<std::string> SetOnce(const std::string& key, const std::string& bytes) = 0;
  virtual absl::Status Delete(const std::string& key) = 0;
  // The process of that rank is surely gone.  Asked about ranks that are waited for.
  virtual bool IsDead(int rank) { return false; }
  // One of those, -1 for none.  Any thread, also while another one is in a call.
  virtual absl::StatusOr<int> AnyDead() { return -1; }
  // Later answers of the store take about so long at most; one that does not come is an error.
  virtual absl::Status LimitAnswers(absl::Duration limit) { return absl::OkStatus(); }
};

class StoreCoordinator : public Coordinator {
 public:
  // Ranks that leave by destroying their coordinator say so; rank 0 then waits for the others as long as `linger`, if
  // it is what keeps the store.  A call whose wait hooks.cancelled ends returns Cancelled, and is E_RANK for the
  // others; of those that wait, the lowest rank tells for whom.
  StoreCoordinator(std::unique_ptr<MessageStore> store, int rank, int world_size, absl::Duration linger,
                   bool keeps_store, const WaitHooks& hooks)
      : store_(std::move(store)),
        rank_(rank),
        world_size_(world_size),
        linger_(linger),
        keeps_store_(keeps_store),
        hooks_(hooks) {}
  ~StoreCoordinator() override { Leave(); }

  int rank() const override { return rank_; }
  int world_size() const override { return world_size_; }
  absl::Status Barrier(absl::string_view name, absl::Duration timeout) override;
  absl::StatusOr<std::string> Broadcast(absl::string_view name, const std::string& bytes, int root,
                                        absl::Duration timeout) override;
  absl::StatusOr<std::vector<std::string>> AllGather(absl::string_view name, const std::string& bytes,
                                                     absl::Duration timeout) override;
  // Also Cancelled, when hooks.cancelled says so.
  absl::Status CheckAlive() override;
  bool IsFirst(absl::string_view name) override;

 protected:
  // For destructors of classes that clean up afterwards.
  void Leave();

 private:
  // `mine`, an error instead of the bytes, is passed on to the others.
  absl::StatusOr<std::vector<std::string>> Meet(const std::string& what, const absl::Status& mine,
                                                const std::string& bytes, absl::Duration timeout);
  // The messages of all ranks, each with its kind in front.
  absl::StatusOr<std::vector<std::string>> Exchange(const std::string& what, const std::string& message,
                                                    absl::Duration timeout);
  // Waits until all are here, one has left or died, or the job has failed; the error that all agree on, "" for none.
  absl::StatusOr<std::string> Await(int64_t call, const std::string& what, absl::Duration timeout);
  absl::StatusOr<std::string> Decide(int64_t call, const std::string& error);
  absl::StatusOr<std::vector<int>> Missing(int64_t call);
  // "": nobody that is missing has left or died.
  absl::StatusOr<std::string> FindGone(int64_t call, const std::string& what);

  const std::unique_ptr<MessageStore> store_;
  const int rank_;
  const int world_size_;
  const absl::Duration linger_;
  const bool keeps_store_;
  const WaitHooks hooks_;
  int64_t calls_ = 0;
  bool has_left_ = false;
  // The first error; from then on every call returns it.
  absl::Status failed_;
};

}  // namespace waypoint

#endif  // CHECKPOINT_COORDINATION_STORE_COORDINATOR_H_
