#ifndef TOOLS_MEMORY_AT_START_H_
#define TOOLS_MEMORY_AT_START_H_

// A program that may have less memory than it needs to start ends with E_NO_MEMORY instead of a signal.
//
//   const size_t waypoint::kBytesToStart = size_t{64} << 20;  // beside main
//
// Linking this does all of it.  Before the constructors of any library have run, which throw or follow null pointers
// without memory, it looks whether kBytesToStart can still be had under the limits of the process (ulimit -v, ulimit
// -d) and ends it with kExitIo if not; lets the stack of the main thread grow, which later nothing could report; and
// has std::terminate, where bad_alloc ends in threads of libraries, print E_NO_MEMORY.  Without memory for the
// libraries themselves the dynamic loader says so, and ends the process with 127.

#include <cstddef>

namespace waypoint {

// What the constructors of the program's libraries allocate, and what it needs to report an error.  Measured by
// tests/memory/sweep: with less, something that does not report it fails.
extern const size_t kBytesToStart;

}  // namespace waypoint

#endif  // TOOLS_MEMORY_AT_START_H_
