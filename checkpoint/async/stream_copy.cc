#include "checkpoint/async/stream_copy.h"

#include <algorithm>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "checkpoint/base/aligned_buffer.h"

namespace waypoint {

#if defined(__SSE2__)

namespace {

constexpr int64_t kLineBytes = 64;
constexpr int64_t kPageBytes = 4096;
// Pages that are read side by side: each is a stream of its own for the hardware's prefetch, which stops at its end.
constexpr int64_t kPages = 4;

void StreamLine(char* to, const char* from) {
  auto* const target = reinterpret_cast<__m128i*>(to);
  const auto* const source = reinterpret_cast<const __m128i*>(from);
  const __m128i a = _mm_loadu_si128(source);
  const __m128i b = _mm_loadu_si128(source + 1);
  const __m128i c = _mm_loadu_si128(source + 2);
  const __m128i d = _mm_loadu_si128(source + 3);
  _mm_stream_si128(target, a);
  _mm_stream_si128(target + 1, b);
  _mm_stream_si128(target + 2, c);
  _mm_stream_si128(target + 3, d);
}

}  // namespace

void StreamCopy(char* to, const char* from, int64_t bytes) {
  const auto address = reinterpret_cast<intptr_t>(to);
  const int64_t head = std::min(bytes, AlignUp(address, kLineBytes) - address);
  std::memcpy(to, from, head);
  to += head;
  from += head;
  bytes -= head;
  for (; bytes >= kPages * kPageBytes; bytes -= kPages * kPageBytes) {
    for (int64_t line = 0; line < kPageBytes; line += kLineBytes) {
      for (int64_t page = 0; page < kPages; ++page) {
        StreamLine(to + page * kPageBytes + line, from + page * kPageBytes + line);
      }
    }
    to += kPages * kPageBytes;
    from += kPages * kPageBytes;
  }
  for (; bytes >= kLineBytes; bytes -= kLineBytes) {
    StreamLine(to, from);
    to += kLineBytes;
    from += kLineBytes;
  }
  std::memcpy(to, from, bytes);
  // Streaming stores are ordered with later ones only by this.
  _mm_sfence();
}

#else

void StreamCopy(char* to, const char* from, int64_t bytes) { std::memcpy(to, from, bytes); }

#endif

}  // namespace waypoint
