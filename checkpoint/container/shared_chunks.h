#ifndef CHECKPOINT_CONTAINER_SHARED_CHUNKS_H_
#define CHECKPOINT_CONTAINER_SHARED_CHUNKS_H_

// Chunks that several reads of one transfer need a part of: the first one reads and checks such a chunk, the others,
// which may run at the same time, get its bytes from there.
//
//   switch (SharedChunks::Taken taken = chunks.Take(file, chunk, bytes); taken.use) {
//     case kAlone: ...   // read it whole
//     case kParts: ...   // read what is needed of it, unchecked
//     case kOwner: ...   // read it whole, then Publish, or GiveUp
//     case kGuest: ...   // Wait, use, Leave; null: read it whole after all
//   }
//
// A read publishes or gives up all that it owns before it waits for others, so that nobody waits in a circle.
// Bytes are kept until the plan says that all have had theirs, and `max_bytes` of them at most: what does not fit is
// read again.  Thread-safe.

#include <condition_variable>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/types/span.h"
#include "checkpoint/base/aligned_buffer.h"
#include "checkpoint/container/chunk_plan.h"

namespace waypoint {

class SharedChunks {
 public:
  // A chunk that somebody has promised to read.
  struct Entry;
  enum Use { kAlone, kParts, kOwner, kGuest };
  struct Taken {
    Use use = kAlone;
    std::shared_ptr<Entry> entry;  // for owners and guests
  };

  // `plan` is decided.
  SharedChunks(ChunkPlan plan, int64_t max_bytes);
  ~SharedChunks();

  // A read needs so many bytes of the chunk.
  Taken Take(int64_t file, int64_t chunk, int64_t bytes);
  // `data` is the whole chunk, checked.
  void Publish(const std::shared_ptr<Entry>& entry, absl::Span<const char> data);
  void GiveUp(const std::shared_ptr<Entry>& entry);
  // The whole chunk, or null; stays until Leave, which follows in any case.
  const char* Wait(const std::shared_ptr<Entry>& entry);
  void Leave(const std::shared_ptr<Entry>& entry);

  // The most that was kept.
  int64_t peak_bytes() const;

 private:
  void Forget(const std::shared_ptr<Entry>& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Copies `data`; false without memory.
  bool Keep(const std::shared_ptr<Entry>& entry, absl::Span<const char> data) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool MakeRoom(int64_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const int64_t max_bytes_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  ChunkPlan plan_ ABSL_GUARDED_BY(mutex_);
  std::map<std::pair<int64_t, int64_t>, std::shared_ptr<Entry>> entries_ ABSL_GUARDED_BY(mutex_);
  std::list<std::shared_ptr<Entry>> kept_ ABSL_GUARDED_BY(mutex_);  // that have bytes, the oldest first
  int64_t kept_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t peak_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace waypoint

#endif  // CHECKPOINT_CONTAINER_SHARED_CHUNKS_H_
