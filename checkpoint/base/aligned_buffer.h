#ifndef CHECKPOINT_BASE_ALIGNED_BUFFER_H_
#define CHECKPOINT_BASE_ALIGNED_BUFFER_H_

// Page-aligned memory for O_DIRECT, made once and reused: touching fresh pages is the slow part of a copy.
//
// Large buffers are in huge pages where the kernel has them.  A device takes a request as a list of pieces that are
// contiguous in physical memory, and only so many of them (254 on a virtio disk): small pages make each request 1 MiB
// and each of its pieces 4 KiB, huge ones 4 MiB in two pieces, which halved the time of direct reads and copies there.
// AlignedBuffer: move-only, one thread.  Throws as std::vector does where there is no memory, and is never null then.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/types/span.h"

namespace waypoint {

// Satisfies every block device: logical blocks are 512 or 4,096 bytes.
inline constexpr int64_t kDirectAlignment = 4096;

// Of x86-64, and of ARM with 4 KiB pages.  Where huge pages are larger, only speed suffers.
inline constexpr int64_t kHugePageBytes = int64_t{2} << 20;

inline constexpr int64_t AlignDown(int64_t value, int64_t alignment) { return value / alignment * alignment; }
inline constexpr int64_t AlignUp(int64_t value, int64_t alignment) {
  return AlignDown(value + alignment - 1, alignment);
}

// Memory for std::free that starts at a page; at a huge page when it has one.  What does not fill a huge page is in
// small ones, so that no more memory is used than asked for.  Never null: throws AllocationError (catch_allocation.h).
char* AllocatePages(size_t bytes);

class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(size_t bytes) : data_(AllocatePages(bytes)), bytes_(bytes) {}
  AlignedBuffer(AlignedBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~AlignedBuffer() { std::free(data_); }

  char* data() const { return data_; }
  size_t size() const { return bytes_; }
  absl::Span<char> span() const { return absl::MakeSpan(data_, bytes_); }

  // Makes the buffer at least this large; contents are lost when it grows.
  void Reserve(size_t bytes) {
    if (bytes > bytes_) {
      *this = AlignedBuffer();
      *this = AlignedBuffer(bytes);
    }
  }

 private:
  char* data_ = nullptr;
  size_t bytes_ = 0;
};

// Buffers that are lent and come back, so that each page is touched for the first time once.  Thread-safe; outlives its
// leases.
class BufferPool {
 public:
  // Returns its buffer to the pool when it goes.
  class Lease {
   public:
    Lease(BufferPool* pool, AlignedBuffer buffer) : pool_(pool), buffer_(std::move(buffer)) {}
    Lease(Lease&& other) noexcept : pool_(std::exchange(other.pool_, nullptr)), buffer_(std::move(other.buffer_)) {}
    Lease& operator=(Lease&&) = delete;
    ~Lease() {
      if (pool_ != nullptr) {
        pool_->Return(std::move(buffer_));
      }
    }
    char* data() const { return buffer_.data(); }
    absl::Span<char> span() const { return buffer_.span(); }

   private:
    friend class BufferPool;
    BufferPool* pool_;
    AlignedBuffer buffer_;
  };

  // A buffer of at least so many bytes; contents undefined.
  Lease Get(size_t bytes) {
    AlignedBuffer buffer;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      // A buffer that comes back, maybe from a destructor, finds its place made.
      free_.reserve(lent_ + free_.size() + 1);
      // The smallest that fits, else the largest: it is replaced rather than kept beside a larger one.
      auto best = free_.end();
      for (auto it = free_.begin(); it != free_.end(); ++it) {
        const bool fits = it->size() >= bytes;
        if (best == free_.end() || (fits && (best->size() < bytes || it->size() < best->size())) ||
            (!fits && best->size() < bytes && it->size() > best->size())) {
          best = it;
        }
      }
      if (best != free_.end()) {
        buffer = std::move(*best);
        free_.erase(best);
      }
      ++lent_;
    }
    Lease lease(this, std::move(buffer));
    lease.buffer_.Reserve(bytes);
    return lease;
  }

 private:
  void Return(AlignedBuffer buffer) {
    const std::lock_guard<std::mutex> lock(mutex_);
    --lent_;
    if (buffer.size() > 0) {
      free_.push_back(std::move(buffer));
    }
  }

  std::mutex mutex_;
  std::vector<AlignedBuffer> free_ ABSL_GUARDED_BY(mutex_);
  size_t lent_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace waypoint

#endif  // CHECKPOINT_BASE_ALIGNED_BUFFER_H_
