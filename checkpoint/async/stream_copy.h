#ifndef CHECKPOINT_ASYNC_STREAM_COPY_H_
#define CHECKPOINT_ASYNC_STREAM_COPY_H_

// memcpy for copies that nobody reads soon: stores go past the caches, so that the old contents of the target are not
// read first, a third of the memory traffic.  memcpy does the same above a size that grows with the shared cache, and
// on machines with hundreds of MiB of it, tensors stay below.  Elsewhere than on x86-64 it is memcpy.  Thread-safe.

#include <cstdint>

namespace waypoint {

// The ranges must not overlap.
void StreamCopy(char* to, const char* from, int64_t bytes);

}  // namespace waypoint

#endif  // CHECKPOINT_ASYNC_STREAM_COPY_H_
