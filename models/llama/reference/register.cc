#include "checkpoint/base/registry.h"
#include "checkpoint/format/checkpoint_format.h"
#include "models/llama/reference/reference_format.h"

namespace waypoint::models {

WAYPOINT_REGISTER(CheckpointFormat, "reference", NewReferenceFormat);

}  // namespace waypoint::models
