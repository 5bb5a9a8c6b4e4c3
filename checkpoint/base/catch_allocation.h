#ifndef CHECKPOINT_BASE_CATCH_ALLOCATION_H_
#define CHECKPOINT_BASE_CATCH_ALLOCATION_H_

// Allocations that fail throw, as the standard library's do; here the exception becomes an error like others.
//
//   absl::Status Job::Work() {
//     return CatchAllocation("blocks of tensors", "lower --max-memory", [this] { return MoveBlocks(); });
//   }
//
// Where: at the outermost level of every function that callers outside the library call, and of every thread; and
// around what one rank does alone before it meets the others, so that it can tell them.  Below that level exceptions
// pass through, and destructors put back what others wait for.
//
// Thread-safe.

#include <cstddef>
#include <exception>
#include <new>
#include <stdexcept>
#include <type_traits>

#include "absl/strings/string_view.h"
#include "checkpoint/base/error.h"

namespace waypoint {

// A failed allocation that knows how much was wanted, and for what.
class AllocationError : public std::bad_alloc {
 public:
  // `what` lives for ever.
  AllocationError(size_t bytes, const char* what) : bytes_(bytes), what_(what) {}
  const char* what() const noexcept override { return what_; }
  size_t bytes() const { return bytes_; }

 private:
  size_t bytes_;
  const char* what_;
};

// Whether it says that memory ran out: std::bad_alloc, a length beyond what memory can hold, and the errors of
// libtorch, whose allocator on CPUs has no type of its own for it (nor has that on GPUs in all versions).
bool IsOutOfMemory(const std::exception& e);

// E_NO_MEMORY: "no memory for WHAT (N bytes); REMEDY", with the bytes where they are known.  Where even those words
// cannot be had, an error that was made at the start of the program.
absl::Status OutOfMemoryError(const std::exception& e, absl::string_view what, absl::string_view remedy) noexcept;

// For calls of libraries that throw: OutOfMemoryError for memory, else `kind` with "CONTEXT: " before the first line of
// what was thrown.
absl::Status ThrownError(const std::exception& e, ErrorKind kind, absl::string_view context,
                         absl::string_view remedy = "lower what the process holds, or raise its limit (ulimit -v)");

// What `body` returns, an absl::Status or absl::StatusOr; E_NO_MEMORY where it could not allocate.  Other exceptions
// pass.
template <typename Body>
auto CatchAllocation(absl::string_view what, absl::string_view remedy, Body&& body) -> std::decay_t<decltype(body())> {
  try {
    return body();
  } catch (const std::exception& e) {
    if (!IsOutOfMemory(e)) {
      throw;
    }
    return OutOfMemoryError(e, what, remedy);
  }
}

// For destructors: what needs memory that is not there is left undone.
template <typename Body>
void UnlessOutOfMemory(Body&& body) noexcept {
  try {
    body();
  } catch (const std::exception& e) {
    if (!IsOutOfMemory(e)) {
      std::terminate();
    }
  }
}

}  // namespace waypoint

#endif  // CHECKPOINT_BASE_CATCH_ALLOCATION_H_
