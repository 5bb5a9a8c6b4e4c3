#include "checkpoint/container/shard_files.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"

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

bool IsShardFileName(absl::string_view name, absl::string_view stem, absl::string_view extension) {
  if (!absl::ConsumePrefix(&name, stem) || !absl::ConsumeSuffix(&name, extension)) {
    return false;
  }
  // "-00001-of-00003"
  const size_t of = name.find("-of-");
  const auto is_number = [](absl::string_view text) {
    return text.size() >= 5 && std::all_of(text.begin(), text.end(), [](char c) { return absl::ascii_isdigit(c); });
  };
  return name.empty() ||
         (of != name.npos && name[0] == '-' && is_number(name.substr(1, of - 1)) && is_number(name.substr(of + 4)));
}

}  // namespace waypoint
