#include "engine/device.h"

#include <cstdlib>

#include "ATen/Context.h"
#include "absl/strings/str_cat.h"
#include "c10/core/impl/DeviceGuardImplInterface.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/coordination/c10d/process_group.h"
#include "checkpoint/coordination/launch_environment.h"

namespace waypoint::engine {
namespace {

constexpr char kLocalRank[] = "LOCAL_RANK";

// Where a launcher shows each rank its own GPU alone, that is the one.
absl::StatusOr<int> GpuIndex(int world_size, int gpus) {
  if (gpus == 1 || (world_size == 1 && std::getenv(kLocalRank) == nullptr)) {
    return 0;
  }
  return IntegerFromEnvironment(kLocalRank);
}

}  // namespace

absl::StatusOr<c10::Device> DeviceOf(const std::string& name, int world_size) {
  if (name == "cpu") {
    return c10::Device(c10::kCPU);
  }
  if (name != "cuda") {
    return MakeError(ErrorKind::kRequest, absl::StrCat("device is \"", name, "\", must be cpu or cuda"));
  }
  const std::string what = "device \"cuda\": ";
  if (!at::globalContext().hasCUDA()) {
    return MakeError(ErrorKind::kUnsupported,
                     absl::StrCat(what,
                                  "the libtorch that this program is linked with has no CUDA, or sees no GPU; "
                                  "build with one that has (third_party/torch), or set device to \"cpu\""));
  }
  const int gpus = c10::impl::getDeviceGuardImpl(c10::kCUDA)->deviceCount();
  WAYPOINT_ASSIGN_OR_RETURN(const int index, GpuIndex(world_size, gpus));
  if (index < 0 || index >= gpus) {
    return MakeError(ErrorKind::kUnsupported, absl::StrCat(what, kLocalRank, " is ", index, ", and this machine has ",
                                                           gpus, " GPUs; start at most one rank for each"));
  }
  if (world_size > 1 && !HasNccl()) {
    return MakeError(ErrorKind::kUnsupported,
                     absl::StrCat(what,
                                  "ranks hand each other tensors on GPUs through NCCL, which this program was "
                                  "built without; build with a libtorch that has it (third_party/torch)"));
  }
  return c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(index));
}

}  // namespace waypoint::engine
