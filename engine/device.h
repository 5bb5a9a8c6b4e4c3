#ifndef ENGINE_DEVICE_H_
#define ENGINE_DEVICE_H_

// Where a rank keeps its tensors and computes.  Thread-safe.

#include <string>

#include "absl/status/statusor.h"
#include "c10/core/Device.h"

namespace waypoint::engine {

// "cpu", or "cuda": the GPU of this rank's number on its host (LOCAL_RANK), or the only one that it sees.  E_REQUEST
// for anything else and where one of several ranks has no LOCAL_RANK; E_UNSUPPORTED, with what is missing, where this
// program or this machine has no such GPU, or no NCCL for the tensors that `world_size` ranks hand each other.
absl::StatusOr<c10::Device> DeviceOf(const std::string& name, int world_size);

}  // namespace waypoint::engine

#endif  // ENGINE_DEVICE_H_
