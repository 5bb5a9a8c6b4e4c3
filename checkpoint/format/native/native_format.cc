#include "checkpoint/format/native/native_format.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/catch_allocation.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/container/safetensors/safetensors_source.h"
#include "checkpoint/container/shard_files.h"
#include "checkpoint/format/file_record.h"
#include "checkpoint/format/format_options.h"
#include "checkpoint/format/native/manifest_file.h"
#include "checkpoint/format/native/native_writer.h"
#include "checkpoint/format/own_files.h"
#include "checkpoint/format/sealed_frame.h"
#include "checkpoint/format/strip_prefix.h"

namespace waypoint {
namespace {

// By file: the tensors that the manifest puts there.
std::vector<std::vector<const TensorRecord*>> RecordsByFile(const NativeManifest& manifest) {
  std::vector<std::vector<const TensorRecord*>> records(manifest.files_size());
  for (const TensorRecord& record : manifest.tensors()) {
    records[record.file()].push_back(&record);
  }
  return records;
}

// The header on disk must say what the sealed manifest says.
absl::Status CompareHeader(const std::string& file_name, const std::vector<const TensorRecord*>& records,
                           const SafetensorsHeader& header) {
  absl::flat_hash_map<absl::string_view, const SafetensorsEntry*> entries;
  for (const SafetensorsEntry& entry : header.entries) {
    entries.emplace(entry.name, &entry);
  }
  for (const TensorRecord* const expected : records) {
    const TensorRecord& record = *expected;
    const auto it = entries.find(record.name());
    if (it == entries.end()) {
      return MakeError(ErrorKind::kMissing, absl::StrCat("tensor \"", record.name(), "\" is not in \"", file_name,
                                                         "\", where the manifest puts it"));
    }
    const SafetensorsEntry& entry = *it->second;
    if (static_cast<int32_t>(entry.dtype) != record.dtype() || entry.begin != record.begin() ||
        entry.end != record.end() || entry.shape != Dims(record.shape().begin(), record.shape().end())) {
      return MakeError(ErrorKind::kChecksum, absl::StrCat("tensor \"", record.name(), "\" of \"", file_name,
                                                          "\" is described otherwise than in the manifest"));
    }
  }
  if (records.size() != header.entries.size()) {
    return MakeError(ErrorKind::kExtra, absl::StrCat("\"", file_name, "\" holds ", header.entries.size(),
                                                     " tensors, the manifest knows ", records.size()));
  }
  return absl::OkStatus();
}

// Where the data of a file begin, as the sealed manifest has it: the header before them is no longer than that.
int64_t DataBegin(int64_t file_bytes, const std::vector<const TensorRecord*>& records) {
  int64_t begin = file_bytes;
  for (const TensorRecord* const record : records) {
    begin = std::min(begin, record->begin());
  }
  return begin;
}

// As ReadSafetensorsHeader.  A length over the limit is damage where the sealed one is below.
absl::StatusOr<SafetensorsHeader> ReadHeader(const ReadableFile& file, int64_t file_bytes,
                                             const std::vector<const TensorRecord*>& records, const Limits& limits) {
  absl::StatusOr<SafetensorsHeader> header = ReadSafetensorsHeader(file, limits);
  const int64_t begin = DataBegin(file_bytes, records);
  if (GetErrorKind(header.status()) == ErrorKind::kLimit && begin <= limits.safetensors_header_bytes) {
    return MakeError(ErrorKind::kChecksum, absl::StrCat(header.status().message(), "; the manifest puts its data at ",
                                                        begin, ": it was damaged"));
  }
  return header;
}

class NativeFormat : public CheckpointFormat {
 public:
  std::string name() const override { return "native"; }
  std::string description() const override {
    return "Waypoint's own directory: safetensors with native names, sealed manifest, optimizer state";
  }
  bool external() const override { return false; }
  bool supports_optimizer_state() const override { return true; }
  bool written_by_many_ranks() const override { return true; }
  bool split_by_bytes() const override { return true; }

  absl::StatusOr<bool> Probe(FileSystem& fs, const std::string& directory) override {
    return ProbeFrame(fs, JoinPath(directory, kManifestFileName));
  }

  absl::StatusOr<std::vector<std::string>> OwnFiles(FileSystem& fs, const std::string& directory) const override {
    const std::string path = JoinPath(directory, kManifestFileName);
    const auto bytes = ReadSmallFile(fs, path, Limits().manifest_file_bytes, "manifest_file_bytes");
    const auto sealed = bytes.ok() ? ParseManifest(*bytes, path, Limits()) : bytes.status();
    if (!sealed.ok()) {
      return FilesNamedLike(fs, directory, [](absl::string_view name) {
        return name == kManifestFileName || IsShardFileName(name, kWeightsStem, ".safetensors") ||
               IsShardFileName(name, kOptimizerStem, ".safetensors");
      });
    }
    std::vector<std::string> names = {std::string(kManifestFileName)};
    for (const FileRecord& file : sealed->manifest.files()) {
      names.push_back(file.name());
    }
    return names;
  }

  absl::StatusOr<OpenedCheckpoint> Open(FileSystem& fs, const std::string& directory,
                                        const LoadOptions& options) override {
    return CatchAllocation("what a checkpoint says of itself", "free memory, or allow more (ulimit -v)",
                           [&] { return OpenThrowing(fs, directory, options); });
  }

  absl::StatusOr<OpenedCheckpoint> OpenThrowing(FileSystem& fs, const std::string& directory,
                                                const LoadOptions& options) {
    WAYPOINT_RETURN_IF_ERROR(CheckFormatOptions(*this, options.format_options, FormatUse::kLoad));
    WAYPOINT_RETURN_IF_ERROR(RefuseStripPrefixes(options.strip_prefixes, name()));
    const std::string manifest_path = JoinPath(directory, kManifestFileName);
    WAYPOINT_ASSIGN_OR_RETURN(const bool sealed_exists, Exists(fs, manifest_path));
    if (!sealed_exists) {
      return MakeError(ErrorKind::kMissing, absl::StrCat("\"", directory, "\" has no ", kManifestFileName,
                                                         ": no native checkpoint, or one whose save did not finish"));
    }
    WAYPOINT_ASSIGN_OR_RETURN(
        const std::string bytes,
        ReadSmallFile(fs, manifest_path, options.limits.manifest_file_bytes, "manifest_file_bytes"));
    WAYPOINT_ASSIGN_OR_RETURN(SealedManifest sealed, ParseManifest(bytes, manifest_path, options.limits));
    const NativeManifest& manifest = sealed.manifest;

    OpenedCheckpoint opened;
    opened.metadata = manifest.metadata();
    opened.sha256 = sealed.sha256;
    const std::vector<std::vector<const TensorRecord*>> records = RecordsByFile(manifest);
    std::vector<SafetensorsFile> files;
    for (int i = 0; i < manifest.files_size(); ++i) {
      const FileRecord& record = manifest.files(i);
      const std::string path = JoinPath(directory, record.name());
      WAYPOINT_ASSIGN_OR_RETURN(auto file, OpenRecorded(fs, path, record));
      if (record.kind() == FileRecord::ASSET) {
        opened.assets.push_back({AssetNameOf(record), path, record.size_bytes(), DigestsOf(record)});
        continue;
      }
      WAYPOINT_ASSIGN_OR_RETURN(SafetensorsHeader header,
                                ReadHeader(*file, record.size_bytes(), records[i], options.limits));
      WAYPOINT_RETURN_IF_ERROR(
          Annotate(CompareHeader(record.name(), records[i], header), absl::StrCat("\"", directory, "\"")));
      files.push_back({path, std::move(header), options.verify_digests ? DigestsOf(record) : ChunkDigests()});
    }
    SafetensorsSourceOptions source_options;
    source_options.window_bytes = options.window_bytes;
    source_options.gap_bytes = options.gap_bytes;
    source_options.max_over_read = options.max_over_read;
    WAYPOINT_ASSIGN_OR_RETURN(opened.tensors, SafetensorsSource::Create(fs, std::move(files), source_options));
    return opened;
  }

  absl::StatusOr<std::unique_ptr<CheckpointWriter>> Create(FileSystem& fs, const std::string& directory,
                                                           const CheckpointMetadata& metadata, TensorSource& state,
                                                           const std::vector<Asset>& assets,
                                                           const SaveOptions& options) override {
    WAYPOINT_RETURN_IF_ERROR(CheckFormatOptions(*this, options.format_options, FormatUse::kSave));
    return NativeWriter::Create(fs, directory, metadata, state, assets, options);
  }
};

}  // namespace

std::unique_ptr<CheckpointFormat> NewNativeFormat() { return std::make_unique<NativeFormat>(); }

}  // namespace waypoint
