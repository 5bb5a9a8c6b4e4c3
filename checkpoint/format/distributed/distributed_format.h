#ifndef CHECKPOINT_FORMAT_DISTRIBUTED_DISTRIBUTED_FORMAT_H_
#define CHECKPOINT_FORMAT_DISTRIBUTED_DISTRIBUTED_FORMAT_H_

// One file per rank, written by all ranks at once as their tensors lie in memory (FORMAT.md); read under any layout.

#include <memory>

#include "checkpoint/format/checkpoint_format.h"

namespace waypoint {

std::unique_ptr<CheckpointFormat> NewDistributedFormat();

}  // namespace waypoint

#endif  // CHECKPOINT_FORMAT_DISTRIBUTED_DISTRIBUTED_FORMAT_H_
