// Loads a checkpoint into tensors that exist already:  load_native DIRECTORY [threads]
//
// Tensors are allocated and touched before the clock starts, as those of a running trainer are.  Prints bytes and
// seconds.

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>

#include "ATen/ATen.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/checkpointer/checkpointer.h"
#include "checkpoint/torch/tensor_bridge.h"
#include "tools/command_line.h"

namespace waypoint {
namespace {

absl::Status Load(const std::string& directory, int threads) {
  FileSystem& fs = PosixFileSystem();
  WAYPOINT_ASSIGN_OR_RETURN(CheckpointFormat * format, FindFormat(fs, directory, "auto"));
  WAYPOINT_ASSIGN_OR_RETURN(OpenedCheckpoint opened, format->Open(fs, directory, {}));
  LiveState state;
  for (const TensorMeta& tensor : opened.tensors->manifest().tensors()) {
    WAYPOINT_ASSIGN_OR_RETURN(const at::ScalarType dtype, DTypeToTorch(tensor.dtype));
    state.push_back({tensor.name, at::ones(at::IntArrayRef(tensor.shape.data(), tensor.shape.size()), dtype), {}, {}});
  }
  WAYPOINT_ASSIGN_OR_RETURN(const auto sink, NewLiveSink(state));
  RestoreOptions options;
  options.transfer.threads = threads;
  const auto start = std::chrono::steady_clock::now();
  WAYPOINT_RETURN_IF_ERROR(Restore(opened, *sink, options).status());
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::printf("{\"bytes\": %lld, \"seconds\": %.6f}\n",
              static_cast<long long>(opened.tensors->manifest().total_bytes()), seconds);
  return absl::OkStatus();
}

}  // namespace
}  // namespace waypoint

int main(int argc, char** argv) {
  if (argc < 2) {
    std::cerr << "usage: load_native DIRECTORY [threads]" << std::endl;
    return waypoint::kExitRequest;
  }
  const absl::Status status = waypoint::Load(waypoint::ResolvePath(argv[1]), argc > 2 ? std::atoi(argv[2]) : 4);
  return status.ok() ? waypoint::kExitOk : waypoint::ReportError(status, false, std::cout, std::cerr);
}
