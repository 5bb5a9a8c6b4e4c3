#include "checkpoint/base/registry.h"
#include "checkpoint/format/checkpoint_format.h"
#include "models/llama/fairseq2/fairseq2_format.h"

namespace waypoint::models {

WAYPOINT_REGISTER(CheckpointFormat, "fairseq2", NewFairseq2Format);

}  // namespace waypoint::models
