#ifndef CHECKPOINT_TENSOR_SHARED_SINK_H_
#define CHECKPOINT_TENSOR_SHARED_SINK_H_

// A sink whose files one process can write, or several together, each of them other blocks:
//
//   one process creates the files (CreateFiles); the others, afterwards, join them (JoinFiles)
//   each calls Write for its own blocks, then Finish, which syncs what was written here, then BlockSums
//   the one takes the sums of all others (SetBlockSums), then completes the files (Complete)
//
// Each process makes a sink of its own with the same arguments.  Calls but Write: one thread.

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "checkpoint/tensor/tensor_sink.h"

namespace waypoint {

class SharedSink : public TensorSink {
 public:
  virtual absl::Status CreateFiles() = 0;
  virtual void JoinFiles() = 0;

  // What the whole must know of blocks [begin, end), which were written here: digests, checksums.
  virtual std::string BlockSums(int64_t begin, int64_t end) = 0;
  // E_SCHEMA for another number of bytes than BlockSums gives.
  virtual absl::Status SetBlockSums(int64_t begin, int64_t end, absl::string_view sums) = 0;

  // Writes and syncs what depends on all blocks.
  virtual absl::Status Complete() { return absl::OkStatus(); }
};

}  // namespace waypoint

#endif  // CHECKPOINT_TENSOR_SHARED_SINK_H_
