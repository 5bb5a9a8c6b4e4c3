#include "checkpoint/container/shard_files.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace waypoint {

std::vector<ShardFile> PlanShardFiles(const Manifest& manifest, const std::vector<int64_t>& tensors,
                                      absl::string_view stem, absl::string_view extension, int64_t max_file_bytes) {
  std::vector<ShardFile> files;
  int64_t bytes = 0;
  for (const int64_t tensor : tensors) {
    const int64_t tensor_bytes = manifest[tensor].num_bytes();
    if (files.empty() || (!files.back().tensors.empty() && bytes + tensor_bytes > max_file_bytes)) {
      files.emplace_back();
      bytes = 0;
    }
    files.back().tensors.push_back(tensor);
    bytes += tensor_bytes;
  }
  for (size_t i = 0; i < files.size(); ++i) {
    files[i].name = files.size() == 1 ? absl::StrCat(stem, extension)
                                      : absl::StrFormat("%s-%05d-of-%05d%s", stem, i + 1, files.size(), extension);
  }
  return files;
}

}  // namespace waypoint
