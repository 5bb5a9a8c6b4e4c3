#include "checkpoint/format/distributed/distributed_format.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/catch_allocation.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/container/shard_files.h"
#include "checkpoint/format/distributed/box_source.h"
#include "checkpoint/format/distributed/distributed_writer.h"
#include "checkpoint/format/distributed/records.h"
#include "checkpoint/format/file_record.h"
#include "checkpoint/format/format_options.h"
#include "checkpoint/format/own_files.h"
#include "checkpoint/format/sealed_frame.h"
#include "checkpoint/format/strip_prefix.h"

namespace waypoint {
namespace {

// The header of a rank's file as its sealed records tell it.
SafetensorsHeader HeaderOf(const RankRecords& records, const Manifest& tensors) {
  SafetensorsHeader header;
  header.file_bytes = records.file().size_bytes();
  header.data_begin = records.boxes_size() > 0 ? records.boxes(0).begin() : header.file_bytes;
  for (const StoredBox& stored : records.boxes()) {
    const TensorMeta& meta = tensors[stored.tensor()];
    const Box box = BoxOf(stored);
    header.entries.push_back({StoredBoxName(meta.name, box), meta.dtype, box.sizes, stored.begin(), stored.end()});
  }
  return header;
}

absl::Status CompareHeaders(const SafetensorsHeader& recorded, const SafetensorsHeader& found,
                            const std::string& path) {
  bool same = recorded.entries.size() == found.entries.size();
  for (size_t i = 0; same && i < found.entries.size(); ++i) {
    const SafetensorsEntry& a = recorded.entries[i];
    const SafetensorsEntry& b = found.entries[i];
    same = a.name == b.name && a.dtype == b.dtype && a.shape == b.shape && a.begin == b.begin && a.end == b.end;
  }
  return same ? absl::OkStatus()
              : MakeError(ErrorKind::kChecksum,
                          absl::StrCat("\"", path, "\": the header describes other tensors than the sealed records"));
}

class DistributedFormat : public CheckpointFormat {
 public:
  std::string name() const override { return "distributed"; }
  std::string description() const override {
    return "one file per rank, written by all ranks at once, read under any layout; sealed, with optimizer state";
  }
  bool external() const override { return false; }
  bool supports_optimizer_state() const override { return true; }
  bool written_by_many_ranks() const override { return true; }

  absl::StatusOr<bool> Probe(FileSystem& fs, const std::string& directory) override {
    return ProbeFrame(fs, JoinPath(directory, kDistributedManifestName));
  }

  absl::StatusOr<std::vector<std::string>> OwnFiles(FileSystem& fs, const std::string& directory) const override {
    const std::string path = JoinPath(directory, kDistributedManifestName);
    const auto bytes = ReadSmallFile(fs, path, Limits().manifest_file_bytes, "manifest_file_bytes");
    const auto sealed = bytes.ok() ? ParseDistributedManifest(*bytes, path, Limits()) : bytes.status();
    if (!sealed.ok()) {
      return FilesNamedLike(fs, directory, [](absl::string_view name) {
        return name == kDistributedManifestName || IsShardFileName(name, "rank", ".safetensors") ||
               IsShardFileName(name, "rank", ".pb");
      });
    }
    std::vector<std::string> names = {std::string(kDistributedManifestName)};
    const int ranks = sealed->manifest.ranks_size();
    for (int rank = 0; rank < ranks; ++rank) {
      names.push_back(RankFileName(rank, ranks, ".safetensors"));
      names.push_back(RankFileName(rank, ranks, ".pb"));
    }
    for (const FileRecord& asset : sealed->manifest.assets()) {
      names.push_back(asset.name());
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
    const std::string manifest_path = JoinPath(directory, kDistributedManifestName);
    WAYPOINT_ASSIGN_OR_RETURN(const bool sealed_exists, Exists(fs, manifest_path));
    if (!sealed_exists) {
      return MakeError(ErrorKind::kMissing,
                       absl::StrCat("\"", directory, "\" has no ", kDistributedManifestName,
                                    ": no distributed checkpoint, or one whose save did not finish"));
    }
    const auto read = [&](const std::string& path) {
      return ReadSmallFile(fs, path, options.limits.manifest_file_bytes, "manifest_file_bytes");
    };
    WAYPOINT_ASSIGN_OR_RETURN(const std::string bytes, read(manifest_path));
    WAYPOINT_ASSIGN_OR_RETURN(SealedDistributedManifest sealed,
                              ParseDistributedManifest(bytes, manifest_path, options.limits));
    OpenedCheckpoint opened;
    opened.metadata = sealed.manifest.metadata();
    opened.sha256 = sealed.sha256;
    for (const FileRecord& record : sealed.manifest.assets()) {
      const std::string path = JoinPath(directory, record.name());
      WAYPOINT_RETURN_IF_ERROR(OpenRecorded(fs, path, record).status());
      opened.assets.push_back({AssetNameOf(record), path, record.size_bytes(), DigestsOf(record)});
    }

    const int world_size = sealed.manifest.ranks_size();
    std::vector<SafetensorsFile> files;
    std::vector<std::vector<BoxSource::Entry>> entries(sealed.tensors.size());
    int64_t num_entries = 0;
    auto& rng_states = *opened.metadata.mutable_training()->mutable_rng_states();
    for (int rank = 0; rank < world_size; ++rank) {
      const std::string records_path = JoinPath(directory, RankFileName(rank, world_size, ".pb"));
      WAYPOINT_ASSIGN_OR_RETURN(const bool exists, Exists(fs, records_path));
      if (!exists) {
        return MakeError(ErrorKind::kMissing, absl::StrCat("\"", records_path, "\" is missing; the manifest lists it"));
      }
      WAYPOINT_ASSIGN_OR_RETURN(const std::string record_bytes, read(records_path));
      WAYPOINT_ASSIGN_OR_RETURN(const RankRecords records, ParseRankRecords(record_bytes, records_path, sealed, rank));
      const std::string path = JoinPath(directory, records.file().name());
      WAYPOINT_ASSIGN_OR_RETURN(const auto file, OpenRecorded(fs, path, records.file()));
      SafetensorsHeader header = HeaderOf(records, sealed.tensors);
      if (options.strict) {
        WAYPOINT_ASSIGN_OR_RETURN(const SafetensorsHeader found, ReadSafetensorsHeader(*file, options.limits));
        WAYPOINT_RETURN_IF_ERROR(CompareHeaders(header, found, path));
      }
      for (const StoredBox& stored : records.boxes()) {
        entries[stored.tensor()].push_back({num_entries++, BoxOf(stored)});
      }
      rng_states.insert(records.rng_states().begin(), records.rng_states().end());  // keeps rank 0's
      files.push_back({path, std::move(header), options.verify_digests ? DigestsOf(records.file()) : ChunkDigests()});
    }
    SafetensorsSourceOptions source_options;
    source_options.window_bytes = options.window_bytes;
    source_options.gap_bytes = options.gap_bytes;
    source_options.max_over_read = options.max_over_read;
    WAYPOINT_ASSIGN_OR_RETURN(auto source, SafetensorsSource::Create(fs, std::move(files), source_options));
    auto boxes = BoxSource::Create(std::move(sealed.tensors), std::move(source), std::move(entries));
    if (!boxes.ok()) {
      return Annotate(boxes.status(), absl::StrCat("\"", directory, "\""));
    }
    opened.tensors = *std::move(boxes);
    return opened;
  }

  absl::StatusOr<std::unique_ptr<CheckpointWriter>> Create(FileSystem& fs, const std::string& directory,
                                                           const CheckpointMetadata& metadata, TensorSource& state,
                                                           const std::vector<Asset>& assets,
                                                           const SaveOptions& options) override {
    WAYPOINT_RETURN_IF_ERROR(CheckFormatOptions(*this, options.format_options, FormatUse::kSave));
    return DistributedWriter::Create(fs, directory, metadata, state, assets, options);
  }
};

}  // namespace

std::unique_ptr<CheckpointFormat> NewDistributedFormat() { return std::make_unique<DistributedFormat>(); }

}  // namespace waypoint
