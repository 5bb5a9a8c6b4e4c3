// Rewrites one container as another, so that PyTorch can be asked about files of ours and we about files of PyTorch.
//
//   torch_files write IN.safetensors DIRECTORY NAME [BLOCK_BYTES [NEW=OLD]...]   every tensor, and some twice
//   torch_files read IN.pth DIRECTORY                                            DIRECTORY/model.safetensors

#include <algorithm>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/container/safetensors/safetensors_sink.h"
#include "checkpoint/container/safetensors/safetensors_source.h"
#include "checkpoint/container/torch_zip/torch_file.h"
#include "checkpoint/container/torch_zip/torch_sink.h"
#include "checkpoint/container/torch_zip/torch_source.h"
#include "checkpoint/tensor/transfer.h"

namespace waypoint {
namespace {

std::vector<int64_t> AllOf(const Manifest& manifest) {
  std::vector<int64_t> all;
  for (int64_t i = 0; i < manifest.size(); ++i) {
    all.push_back(i);
  }
  return all;
}

absl::Status Write(const std::vector<std::string>& arguments) {
  FileSystem& fs = PosixFileSystem();
  WAYPOINT_ASSIGN_OR_RETURN(const auto file, fs.OpenForRead(arguments[0], {}));
  WAYPOINT_ASSIGN_OR_RETURN(SafetensorsHeader header, ReadSafetensorsHeader(*file, {}));
  WAYPOINT_ASSIGN_OR_RETURN(const auto source,
                            SafetensorsSource::Create(fs, {{arguments[0], std::move(header), {}}}, {}));
  const Manifest& manifest = source->manifest();
  TorchFilePlan plan;
  plan.name = arguments[2];
  for (const int64_t tensor : AllOf(manifest)) {
    plan.entries.push_back({manifest[tensor].name, tensor});
  }
  int64_t block_bytes = int64_t{8} << 20;
  if (arguments.size() > 3 && !absl::SimpleAtoi(arguments[3], &block_bytes)) {
    return MakeError(ErrorKind::kRequest, absl::StrCat("\"", arguments[3], "\" is no number of bytes"));
  }
  for (size_t i = 4; i < arguments.size(); ++i) {
    const std::pair<std::string, std::string> tie = absl::StrSplit(arguments[i], '=');
    const int64_t tensor = manifest.Find(tie.second);
    if (tensor < 0) {
      return MakeError(ErrorKind::kRequest, absl::StrCat("no tensor \"", tie.second, "\""));
    }
    plan.entries.push_back({tie.first, tensor});
  }
  WAYPOINT_ASSIGN_OR_RETURN(const auto sink,
                            TorchSink::Create(fs, arguments[1], manifest, {std::move(plan)}, block_bytes));
  return Transfer(*source, *sink, {}).status();
}

absl::Status Read(const std::vector<std::string>& arguments) {
  FileSystem& fs = PosixFileSystem();
  WAYPOINT_ASSIGN_OR_RETURN(const auto file, fs.OpenForRead(arguments[0], {}));
  WAYPOINT_ASSIGN_OR_RETURN(TorchContents contents, ReadTorchFile(*file, {}));
  WAYPOINT_ASSIGN_OR_RETURN(const auto source, TorchSource::Create(fs, {std::move(contents)}, {}));
  const Manifest& manifest = source->manifest();
  WAYPOINT_ASSIGN_OR_RETURN(
      const auto sink, SafetensorsSink::Create(fs, arguments[1], manifest, {{"model.safetensors", AllOf(manifest), {}}},
                                               int64_t{8} << 20));
  return Transfer(*source, *sink, {}).status();
}

}  // namespace
}  // namespace waypoint

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + std::min(argc, 2), argv + argc);
  const std::string verb = argc > 1 ? argv[1] : "";
  if (!(verb == "write" && arguments.size() >= 3) && !(verb == "read" && arguments.size() == 2)) {
    std::cerr << "usage: torch_files write IN.safetensors DIRECTORY NAME [BLOCK_BYTES [NEW=OLD]...]\n"
                 "       torch_files read IN.pth DIRECTORY\n";
    return 2;
  }
  const absl::Status status = verb == "write" ? waypoint::Write(arguments) : waypoint::Read(arguments);
  if (!status.ok()) {
    std::cerr << waypoint::ErrorKindName(waypoint::GetErrorKind(status)) << ": " << status.message() << "\n";
    return 1;
  }
  return 0;
}
