#include "checkpoint/base/registry.h"
#include "checkpoint/format/checkpoint_format.h"
#include "models/llama/llama_format.h"

namespace waypoint::models {

WAYPOINT_REGISTER(CheckpointFormat, "llama", NewLlamaFormat);

}  // namespace waypoint::models
