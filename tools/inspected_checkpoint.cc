#include "tools/inspected_checkpoint.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/checkpointer/checkpointer.h"
#include "checkpoint/container/safetensors/header.h"
#include "checkpoint/container/safetensors/safetensors_source.h"
#include "tools/format_flags.h"

namespace waypoint {
namespace {

// Of one value, and of one behind the first megabyte of them.
constexpr size_t kShownValueBytes = 4096;
constexpr size_t kShownRestBytes = 120;
constexpr size_t kShownMetadataBytes = size_t{1} << 20;

absl::StatusOr<SafetensorsHeader> ReadHeaderOf(FileSystem& fs, const std::string& path, const Limits& limits) {
  WAYPOINT_ASSIGN_OR_RETURN(const auto file, fs.OpenForRead(path, {}));
  return ReadSafetensorsHeader(*file, limits);
}

// Takes the metadata, of which a file may have very much, out of the header.
InspectedFile Describe(const std::string& name, SafetensorsHeader& header) {
  InspectedFile file;
  file.name = name;
  file.size_bytes = header.file_bytes;
  file.tensors = static_cast<int64_t>(header.entries.size());
  file.metadata = std::move(header.metadata);
  header.metadata.clear();
  size_t shown_bytes = 0;
  for (auto& [key, value] : file.metadata) {
    size_t cut = shown_bytes < kShownMetadataBytes ? kShownValueBytes : kShownRestBytes;
    if (value.size() > cut) {
      while ((static_cast<unsigned char>(value[cut]) & 0xC0) == 0x80) {
        --cut;  // never inside a character
      }
      value = absl::StrCat(value.substr(0, cut), "... (", value.size(), " bytes)");
    }
    shown_bytes += value.size();
  }
  return file;
}

}  // namespace

absl::StatusOr<InspectedCheckpoint> OpenInspected(FileSystem& fs, const std::string& path, const std::string& format,
                                                  const LoadOptions& load) {
  InspectedCheckpoint inspected;
  inspected.path = path;
  WAYPOINT_ASSIGN_OR_RETURN(const FileInfo info, fs.Stat(path));
  if (info.type != FileType::kDirectory) {
    SafetensorsFile file;
    file.path = path;
    WAYPOINT_ASSIGN_OR_RETURN(file.header, ReadHeaderOf(fs, path, load.limits));
    inspected.format = "safetensors";
    inspected.is_file = true;
    inspected.files.push_back(Describe(BaseName(path), file.header));
    std::vector<SafetensorsFile> files;
    files.push_back(std::move(file));
    WAYPOINT_ASSIGN_OR_RETURN(inspected.opened.tensors, SafetensorsSource::Create(fs, std::move(files), {}));
    return inspected;
  }
  WAYPOINT_ASSIGN_OR_RETURN(CheckpointFormat * found, FindFormat(fs, path, format));
  inspected.format = found->name();
  LoadOptions of_format = load;
  WAYPOINT_ASSIGN_OR_RETURN(of_format.format_options, LoadFormatOptions(*found, nullptr, load.format_options));
  WAYPOINT_ASSIGN_OR_RETURN(inspected.opened, found->Open(fs, path, of_format));
  WAYPOINT_ASSIGN_OR_RETURN(const std::vector<DirectoryEntry> entries, fs.List(path));
  for (const DirectoryEntry& entry : entries) {
    const std::string entry_path = JoinPath(path, entry.name);
    // Links too: a cache of downloads is made of them.  One that leads nowhere is none of the checkpoint's files.
    const absl::StatusOr<FileInfo> entry_info = fs.Stat(entry_path);
    if (!entry_info.ok() || entry_info->type != FileType::kFile) {
      continue;
    }
    InspectedFile file;
    file.name = entry.name;
    file.size_bytes = entry_info->size_bytes;
    if (absl::EndsWith(entry.name, ".safetensors")) {
      // The checkpoint is open, so its own files are sound; one that nothing refers to may be anything.
      absl::StatusOr<SafetensorsHeader> header = ReadHeaderOf(fs, entry_path, load.limits);
      if (header.ok()) {
        file = Describe(entry.name, *header);
      } else {
        file.problem = std::string(header.status().message());
      }
    }
    inspected.files.push_back(std::move(file));
  }
  return inspected;
}

}  // namespace waypoint
