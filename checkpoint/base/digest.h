#ifndef CHECKPOINT_BASE_DIGEST_H_
#define CHECKPOINT_BASE_DIGEST_H_

// Digests: XXH3 for chunks (finds accidents, tens of GB/s), SHA-256 for identity (nobody can forge it).
//
//   Sha256 sha;
//   for (...) sha.Update(bytes);
//   const std::string hex = sha.Hex();
//
// Functions are thread-safe; classes: one thread.  Where libcrypto has no memory, they throw as std::string does
// (catch_allocation.h).

#include <cstdint>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace waypoint {

// XXH3, 64 bits, seed 0.  The algorithm is frozen since xxHash 0.8.
uint64_t Xxh3(absl::Span<const char> bytes);
// Literals, which would become spans with their final NUL.  Strings and string_views are spans already.
inline uint64_t Xxh3(const char* text) { return Xxh3(absl::Span<const char>(absl::string_view(text))); }

// The same over pieces.
class Xxh3Stream {
 public:
  Xxh3Stream();
  ~Xxh3Stream();
  Xxh3Stream(const Xxh3Stream&) = delete;
  Xxh3Stream& operator=(const Xxh3Stream&) = delete;
  void Update(absl::Span<const char> bytes);
  // Of everything so far; more may follow.
  uint64_t Digest() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// 16 lower-case hexadecimal digits, most significant first.
std::string DigestHex(uint64_t digest);

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;
  void Update(absl::Span<const char> bytes);
  void Update(const char* text) { Update(absl::Span<const char>(absl::string_view(text))); }
  // 64 lower-case hexadecimal digits of everything so far; more may follow.
  std::string Hex() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace waypoint

#endif  // CHECKPOINT_BASE_DIGEST_H_
