#ifndef CHECKPOINT_BASE_ALIGNED_BUFFER_H_
#define CHECKPOINT_BASE_ALIGNED_BUFFER_H_

// Page-aligned memory for O_DIRECT, made once and reused: touching fresh pages is the slow part of a copy.
// Move-only; one thread.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <utility>

#include "absl/types/span.h"

namespace waypoint {

// Satisfies every block device: logical blocks are 512 or 4,096 bytes.
inline constexpr int64_t kDirectAlignment = 4096;

inline constexpr int64_t AlignDown(int64_t value, int64_t alignment) { return value / alignment * alignment; }
inline constexpr int64_t AlignUp(int64_t value, int64_t alignment) {
  return AlignDown(value + alignment - 1, alignment);
}

class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(size_t bytes)
      : data_(static_cast<char*>(
            std::aligned_alloc(kDirectAlignment, AlignUp(bytes == 0 ? 1 : bytes, kDirectAlignment)))),
        bytes_(bytes) {}
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

}  // namespace waypoint

#endif  // CHECKPOINT_BASE_ALIGNED_BUFFER_H_
