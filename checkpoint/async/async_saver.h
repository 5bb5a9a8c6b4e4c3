#ifndef CHECKPOINT_ASYNC_ASYNC_SAVER_H_
#define CHECKPOINT_ASYNC_ASYNC_SAVER_H_

// Saves while training goes on: a snapshot in the trainer's thread, conversion and writing in another.
//
//   AsyncSaver saver({.method = SnapshotMethod::kLazy});
//   for (;;) {
//     ... forward, backward ...
//     WAYPOINT_RETURN_IF_ERROR(saver.Fence());      // the weights change from here on
//     ... optimizer step ...
//     if (due) WAYPOINT_RETURN_IF_ERROR(saver.Save(state, SaveInto(root, options, metadata, assets)).status());
//   }
//   WAYPOINT_RETURN_IF_ERROR(saver.Wait());
//
// At most one save runs in the background.  When it fails, the next call of Save, Fence or Wait returns the failure,
// once, and does nothing else; on_lost_failure gets one that no call returned.  What was published before is not
// touched by a save that fails.
//
// Many ranks save together: each has a saver of its own, calls Save for the same steps, and passes a writer that knows
// the coordinator, such as SaveInto's.  A Save that fails on one rank, whatever the reason, is made known to the
// others: every call of Save makes one call of `write`, with the snapshot or with the error.  With wait_when_busy =
// false a rank that refuses a step fails it on all ranks.
//
// One thread calls; the write function runs in another.

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "checkpoint/async/host_memory.h"
#include "checkpoint/async/memory_state.h"
#include "checkpoint/async/snapshot_arena.h"
#include "checkpoint/async/state_copy.h"
#include "checkpoint/checkpointer/checkpointer.h"

namespace waypoint {

enum class SnapshotMethod {
  // Save returns when the state is copied to host memory that is kept from save to save.
  kCopy,
  // Save returns at once; the copy runs beside forward and backward, and Fence waits for the rest.  The state must not
  // change between Save and Fence.
  kLazy,
  // Save returns at once, for tensors in a SnapshotArena; a page is copied when it is first written to.  All other
  // tensors are copied as by kCopy.
  kWriteProtect,
};
absl::string_view SnapshotMethodName(SnapshotMethod method);

struct AsyncSaveOptions {
  SnapshotMethod method = SnapshotMethod::kCopy;
  // When Save finds the one before still running: wait for it, or return E_LOCKED (then `write` gets that error once
  // the one before is done).
  bool wait_when_busy = true;
  // Most bytes of copies of the state; 0: no limit.  A state that needs more is refused with E_LIMIT.  What conversion
  // and writing hold on top is bounded by TransferOptions::max_bytes_in_flight, reserves by ArenaOptions.
  int64_t max_snapshot_bytes = 0;
  // Of kCopy, the calling one included.  kLazy uses one beside training, and the caller of Fence.
  int copy_threads = 2;
  // Added to the niceness of the threads that convert and write, so that training goes first.
  int background_nice = 10;
  // Where tensors may live; for kWriteProtect.
  std::vector<std::shared_ptr<SnapshotArena>> arenas = {};
  // Told by the destructor of a failure that no call returned.  Unset: it goes to stderr.
  std::function<void(const absl::Status&)> on_lost_failure = {};
};

struct AsyncSaveReport {
  SaveReport save;
  SnapshotMethod method = SnapshotMethod::kCopy;  // that was used
  std::string why;  // it is another one than was asked for, or only for a part; else empty
  int64_t state_bytes = 0;
  int64_t copied_bytes = 0;   // in Save or Fence, or by writes to protected pages
  double waited_seconds = 0;  // in Save, for the save before
  double pause_seconds = 0;   // in Save, for the snapshot
  double fence_seconds = 0;   // in Fence
  double write_seconds = 0;   // in the background
};

// Writes a snapshot; runs in the background.  An error in its place is why this rank has none: the writer tells it to
// the other ranks, if there are any, and writes nothing.  What it then returns is not looked at.
using SnapshotWriter = std::function<absl::StatusOr<SaveReport>(const absl::StatusOr<TensorSource*>& snapshot)>;

// A CheckpointRoot's Save, or GiveUp.  `root` is used by nobody else before the save is done, and outlives it.
SnapshotWriter SaveInto(CheckpointRoot& root, CheckpointerOptions options, CheckpointMetadata metadata,
                        std::vector<Asset> assets = {});

class AsyncSaver {
 public:
  explicit AsyncSaver(AsyncSaveOptions options);
  // Waits for the save that runs.
  ~AsyncSaver();
  AsyncSaver(const AsyncSaver&) = delete;
  AsyncSaver& operator=(const AsyncSaver&) = delete;

  // Gets the host memory for snapshots of such a state, so that the first save does not pause longer than the others.
  // E_NO_MEMORY where there is none.
  absl::Status Prepare(const MemoryState& state);

  // Snapshots the state and begins to write it.  The tensors' memory is kept (MemoryTensor::owner) for as long as it is
  // needed.  Returns what is known by now: `save` and the later times are filled in by TakeFinished.
  // Errors: the failure of the save before; E_LOCKED, E_LIMIT as in the options; E_NO_MEMORY, or E_LIMIT when there is
  // no thread to be had; E_REQUEST, E_DTYPE of the state.
  absl::StatusOr<AsyncSaveReport> Save(const MemoryState& state, SnapshotWriter write);

  // Call just before the state changes.  Waits until the snapshot no longer needs it as it is.
  absl::Status Fence();

  // Waits until nothing runs.
  absl::Status Wait();
  // Whether a save runs.
  bool busy() const;

  // Reports of the saves that succeeded since the last call, in order.
  std::vector<AsyncSaveReport> TakeFinished();

 private:
  struct Snapshot;

  absl::StatusOr<AsyncSaveReport> BeginSave(const MemoryState& state, SnapshotWriter write);
  absl::Status TakeFailure();
  void Join();
  absl::Status Reserve(int64_t bytes);
  absl::StatusOr<std::unique_ptr<Snapshot>> Take(const MemoryState& state);
  void ProtectArenas(Snapshot& snapshot, MemoryState& rest, MemoryState& protected_part);
  absl::Status CopyNow(StateCopy& copy) const;
  void Write(Snapshot& snapshot, const SnapshotWriter& write);
  // Has the other ranks learn, in the background, why this one has no snapshot.
  void Tell(std::shared_ptr<const SnapshotWriter> write, const absl::Status& why);
  void TellAll();

  const AsyncSaveOptions options_;
  HostMemory memory_;  // of copies; reused
  // Of the save that runs, or ran last.
  std::unique_ptr<Snapshot> snapshot_;
  std::thread background_;
  bool fenced_ = false;  // since the last Save

  mutable std::mutex mutex_;
  bool busy_ ABSL_GUARDED_BY(mutex_) = false;     // with a save
  bool telling_ ABSL_GUARDED_BY(mutex_) = false;  // the background is in TellAll
  // Calls of Save that have no snapshot, in order, for TellAll.
  struct Untold {
    std::shared_ptr<const SnapshotWriter> write;
    absl::Status why;
  };
  std::deque<Untold> untold_ ABSL_GUARDED_BY(mutex_);
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  std::vector<AsyncSaveReport> finished_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace waypoint

#endif  // CHECKPOINT_ASYNC_ASYNC_SAVER_H_
