#ifndef TESTS_TESTING_FAILING_MALLOC_H_
#define TESTS_TESTING_FAILING_MALLOC_H_

// malloc and all that is made of it (operator new of all libraries, OpenSSL, libtorch, ...), failing at will.
//
//   for (int64_t n = 0;; ++n) {
//     FailingMalloc failing(FailingMalloc::kOnce, n);
//     const absl::Status status = Save();
//     if (!failing.Stop()) break;  // it made fewer allocations than that
//     ...
//   }
//
// Linked into a test, it takes the place of the C library's functions.  Where a sanitizer has its own, nothing fails
// and `available` is false.  One at a time; what fails may be of any thread.

#include <cstdint>

namespace waypoint {

class FailingMalloc {
 public:
  enum Mode {
    kOnce,      // allocation n, counted from 0
    kFromThen,  // and all that follow, until Stop
  };
  static const bool available;

  FailingMalloc(Mode mode, int64_t n);
  ~FailingMalloc() { Stop(); }
  FailingMalloc(const FailingMalloc&) = delete;
  FailingMalloc& operator=(const FailingMalloc&) = delete;

  // From here on nothing fails.  Whether something did.
  bool Stop();
  // Allocations since the beginning, until Stop.
  int64_t allocations() const;
};

}  // namespace waypoint

#endif  // TESTS_TESTING_FAILING_MALLOC_H_
