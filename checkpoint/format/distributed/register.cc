#include "checkpoint/base/registry.h"
#include "checkpoint/format/checkpoint_format.h"
#include "checkpoint/format/distributed/distributed_format.h"

namespace waypoint {

WAYPOINT_REGISTER(CheckpointFormat, "distributed", NewDistributedFormat);

}  // namespace waypoint
