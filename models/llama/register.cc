#include "checkpoint/base/registry.h"
#include "checkpoint/format/checkpoint_format.h"
#include "checkpoint/format/external/config_defaults.h"
#include "models/llama/config_defaults.h"
#include "models/llama/llama_format.h"

namespace waypoint::models {

WAYPOINT_REGISTER(CheckpointFormat, "llama", NewLlamaFormat);
WAYPOINT_REGISTER(ConfigDefaults, "llama", NewLlamaConfigDefaults);

}  // namespace waypoint::models
