#include "checkpoint/base/registry.h"
#include "checkpoint/format/checkpoint_format.h"
#include "checkpoint/format/native/native_format.h"

namespace waypoint {

WAYPOINT_REGISTER(CheckpointFormat, "native", NewNativeFormat);

}  // namespace waypoint
