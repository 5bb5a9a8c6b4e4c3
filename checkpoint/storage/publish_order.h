#ifndef CHECKPOINT_STORAGE_PUBLISH_ORDER_H_
#define CHECKPOINT_STORAGE_PUBLISH_ORDER_H_

// The rule of atomic publishing, checked on a recorded trace: fails fast, and for every run, where a crash test needs
// the right moment.  Thread-safe.
//
//   FaultFileSystem fs(PosixFileSystem());
//   Save(fs);
//   EXPECT_TRUE(CheckPublishOrder(fs.trace()).ok());

#include <vector>

#include "absl/status/status.h"
#include "checkpoint/storage/fault_file_system.h"

namespace waypoint {

// Proves from a trace that nothing was published before it was durable.  For each successful rename or exchange:
// every file below either path that was written in the trace was synced after its last write, every directory below
// them that changed was synced after its last change, and the directories that hold the two names were synced
// afterwards.  FailedPrecondition names the first call that breaks the rule.
absl::Status CheckPublishOrder(const std::vector<FileCall>& trace);

}  // namespace waypoint

#endif  // CHECKPOINT_STORAGE_PUBLISH_ORDER_H_
