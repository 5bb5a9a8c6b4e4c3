#ifndef CHECKPOINT_ASYNC_STATE_COPY_H_
#define CHECKPOINT_ASYNC_STATE_COPY_H_

// A copy of a state into host memory, by as many threads as call Work.
//
//   StateCopy copy(state, memory.data());          // memory of StateCopy::BytesFor(state)
//   std::thread helper([&copy] { copy.Work(); });
//   WAYPOINT_RETURN_IF_ERROR(copy.Finish());       // works too, then waits for the helper's last piece
//   copy.copied();                                 // the same tensors, now in `memory`
//
// Thread-safe.  The state must not change before Finish returned.

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "checkpoint/async/memory_state.h"

namespace waypoint {

class StateCopy {
 public:
  // Tensors lie row-major one behind the other, each aligned to a cache line.
  static int64_t BytesFor(const MemoryState& state);

  // `state` passed ManifestOf.
  StateCopy(MemoryState state, char* memory);

  // Copies pieces until none is left to take.  Throws nothing.
  void Work();
  // Work, then waits until the pieces that others took are copied.  The first error of a fetch.
  absl::Status Finish();

  const MemoryState& copied() const { return copied_; }
  int64_t bytes() const { return bytes_; }

 private:
  struct Piece {
    size_t tensor = 0;
    StridedSpan from;  // unset: the tensor's fetch
    StridedSpan to;
  };
  // Pieces [begin, end): together large enough to be worth a turn.
  struct Turn {
    size_t begin = 0;
    size_t end = 0;
  };

  absl::Status CopyTurn(const Turn& turn) const;

  const MemoryState state_;
  MemoryState copied_;
  int64_t bytes_ = 0;
  std::vector<Piece> pieces_;
  std::vector<Turn> turns_;
  std::atomic<size_t> next_{0};
  std::mutex mutex_;
  std::condition_variable done_;
  size_t turns_done_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace waypoint

#endif  // CHECKPOINT_ASYNC_STATE_COPY_H_
