#ifndef CHECKPOINT_FORMAT_NATIVE_NATIVE_FORMAT_H_
#define CHECKPOINT_FORMAT_NATIVE_NATIVE_FORMAT_H_

// Our own directory layout (FORMAT.md): safetensors files with native names, a sealed manifest, optimizer state.

#include <memory>

#include "checkpoint/format/checkpoint_format.h"

namespace waypoint {

std::unique_ptr<CheckpointFormat> NewNativeFormat();

}  // namespace waypoint

#endif  // CHECKPOINT_FORMAT_NATIVE_NATIVE_FORMAT_H_
