#include "tools/inspected_checkpoint.h"

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/checkpointer/checkpointer.h"
#include "checkpoint/container/safetensors/header.h"
#include "checkpoint/container/safetensors/safetensors_source.h"
#include "checkpoint/container/torch_zip/torch_file.h"
#include "checkpoint/container/torch_zip/torch_source.h"
#include "checkpoint/container/torch_zip/zip_directory.h"
#include "checkpoint/format/file_checks.h"
#include "checkpoint/format/strip_prefix.h"
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

// Cuts long values: a file may have very many of them.
std::map<std::string, std::string> Shortened(std::map<std::string, std::string> metadata) {
  size_t shown_bytes = 0;
  for (auto& [key, value] : metadata) {
    size_t cut = shown_bytes < kShownMetadataBytes ? kShownValueBytes : kShownRestBytes;
    if (value.size() > cut) {
      while ((static_cast<unsigned char>(value[cut]) & 0xC0) == 0x80) {
        --cut;  // never inside a character
      }
      value = absl::StrCat(value.substr(0, cut), "... (", value.size(), " bytes)");
    }
    shown_bytes += value.size();
  }
  return metadata;
}

// Takes the metadata out of the header.
InspectedFile Describe(const std::string& name, SafetensorsHeader& header) {
  InspectedFile file;
  file.name = name;
  file.size_bytes = header.file_bytes;
  file.tensors = static_cast<int64_t>(header.entries.size());
  file.metadata = Shortened(std::exchange(header.metadata, {}));
  return file;
}

// By name, and where that says nothing, by the first bytes.
absl::StatusOr<bool> IsTorchFile(const ReadableFile& file) {
  const std::string& path = file.path();
  for (const absl::string_view suffix : {".pth", ".pt", ".bin"}) {
    if (absl::EndsWith(path, suffix)) {
      return true;
    }
  }
  char start[4] = "";
  if (absl::EndsWith(path, ".safetensors") || file.size_bytes() < static_cast<int64_t>(sizeof(start))) {
    return false;
  }
  WAYPOINT_RETURN_IF_ERROR(file.Read(0, absl::MakeSpan(start)));
  return ZipDirectory::Recognises(absl::string_view(start, sizeof(start)));
}

// Names of one file, without what a wrapper left before them.
template <typename Tensors>
absl::Status StripNames(const LoadOptions& load, Tensors& tensors) {
  std::vector<std::string*> names;
  for (auto& tensor : tensors) {
    names.push_back(&tensor.name);
  }
  PrefixStripper stripper(load.strip_prefixes);
  WAYPOINT_RETURN_IF_ERROR(stripper.Apply(names));
  return stripper.Finish();
}

absl::Status OpenTorchFile(FileSystem& fs, const ReadableFile& file, const LoadOptions& load,
                           InspectedCheckpoint* inspected) {
  WAYPOINT_ASSIGN_OR_RETURN(TorchContents contents, ReadTorchFile(file, load.limits));
  WAYPOINT_RETURN_IF_ERROR(StripNames(load, contents.tensors));
  WAYPOINT_ASSIGN_OR_RETURN(CheckpointFile described,
                            TensorFile(BaseName(file.path()), file.path(), file.size_bytes(), load));
  described.has_checksums = HasChecksums(contents);
  TorchSourceOptions options;
  options.limits = load.limits;
  options.recorders = {described.recorder};
  inspected->opened.files.push_back(std::move(described));
  inspected->format = contents.legacy ? "torch before 1.6" : "torch";
  InspectedFile description;
  description.name = BaseName(file.path());
  description.size_bytes = contents.file_bytes;
  description.tensors = static_cast<int64_t>(contents.tensors.size());
  std::map<std::string, std::string> values;
  for (const TorchValue& value : contents.values) {
    values[value.path] = absl::StrCat(value.type, " ", value.text);
  }
  if (contents.values_left_out > 0) {
    inspected->opened.notes.push_back(absl::StrCat(contents.values_left_out, " more values are not shown"));
  }
  description.metadata = Shortened(std::move(values));
  inspected->files.push_back(std::move(description));
  std::vector<TorchContents> files;
  files.push_back(std::move(contents));
  WAYPOINT_ASSIGN_OR_RETURN(inspected->opened.tensors, TorchSource::Create(fs, std::move(files), options));
  return absl::OkStatus();
}

absl::Status OpenSafetensorsFile(FileSystem& fs, const std::string& path, const LoadOptions& load,
                                 InspectedCheckpoint* inspected) {
  SafetensorsFile file;
  file.path = path;
  WAYPOINT_ASSIGN_OR_RETURN(file.header, ReadHeaderOf(fs, path, load.limits));
  WAYPOINT_RETURN_IF_ERROR(StripNames(load, file.header.entries));
  WAYPOINT_ASSIGN_OR_RETURN(CheckpointFile described, TensorFile(BaseName(path), path, file.header.file_bytes, load));
  file.recorder = described.recorder;
  inspected->opened.files.push_back(std::move(described));
  inspected->format = "safetensors";
  inspected->files.push_back(Describe(BaseName(path), file.header));
  std::vector<SafetensorsFile> files;
  files.push_back(std::move(file));
  WAYPOINT_ASSIGN_OR_RETURN(inspected->opened.tensors, SafetensorsSource::Create(fs, std::move(files), {}));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<InspectedCheckpoint> OpenInspected(FileSystem& fs, const std::string& path, const std::string& format,
                                                  const LoadOptions& load) {
  InspectedCheckpoint inspected;
  inspected.path = path;
  if (const absl::StatusOr<FileInfo> info = fs.Stat(path); info.ok() && info->type != FileType::kDirectory) {
    inspected.is_file = true;
    WAYPOINT_ASSIGN_OR_RETURN(const std::unique_ptr<ReadableFile> file, fs.OpenForRead(path, {}));
    WAYPOINT_ASSIGN_OR_RETURN(const bool torch, IsTorchFile(*file));
    WAYPOINT_RETURN_IF_ERROR(torch ? OpenTorchFile(fs, *file, load, &inspected)
                                   : OpenSafetensorsFile(fs, path, load, &inspected));
    return inspected;
  }
  WAYPOINT_ASSIGN_OR_RETURN(const FoundCheckpoint where, FindCheckpoint(fs, path, format));
  CheckpointFormat* const found = where.format;
  inspected.path = where.path;
  inspected.format = found->name();
  inspected.external = found->external();
  LoadOptions of_format = load;
  WAYPOINT_ASSIGN_OR_RETURN(of_format.format_options, LoadFormatOptions(*found, nullptr, load.format_options));
  WAYPOINT_ASSIGN_OR_RETURN(inspected.opened, found->Open(fs, where.path, of_format));
  inspected.opened.notes.insert(inspected.opened.notes.begin(), where.notes.begin(), where.notes.end());
  WAYPOINT_ASSIGN_OR_RETURN(const std::vector<DirectoryEntry> entries, fs.List(where.path));
  for (const DirectoryEntry& entry : entries) {
    const std::string entry_path = JoinPath(where.path, entry.name);
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
