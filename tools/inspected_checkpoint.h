#ifndef TOOLS_INSPECTED_CHECKPOINT_H_
#define TOOLS_INSPECTED_CHECKPOINT_H_

// What `inspect` looks at: a checkpoint directory of any format, or one file of
// safetensors or of torch.save.  Does not link libtorch.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "checkpoint/format/checkpoint_format.h"
#include "checkpoint/storage/file_system.h"

namespace waypoint {

struct InspectedFile {
  std::string name;
  int64_t size_bytes = 0;
  // Of a file of tensors.
  int64_t tensors = 0;
  // Why a file beside the checkpoint's own is no safetensors file, whatever its name says.
  std::string problem;
  // What else it holds; long values are cut.
  std::map<std::string, std::string> metadata;
};

struct InspectedCheckpoint {
  std::string path;    // of the one that was taken, where several could be meant
  std::string format;  // "safetensors", "torch" or "torch before 1.6" for one file
  bool is_file = false;
  bool external = false;  // of a format that is somebody else's
  // Native names for a directory, names as they are stored for a file.
  OpenedCheckpoint opened;
  // The file, or the directory's plain files in bytewise order.
  std::vector<InspectedFile> files;
};

// Errors: as FindFormat, CheckpointFormat::Open, ReadSafetensorsHeader and ReadTorchFile.
absl::StatusOr<InspectedCheckpoint> OpenInspected(FileSystem& fs, const std::string& path, const std::string& format,
                                                  const LoadOptions& load);

}  // namespace waypoint

#endif  // TOOLS_INSPECTED_CHECKPOINT_H_
