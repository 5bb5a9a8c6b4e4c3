#include "checkpoint/format/native/native_writer.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/format/file_record.h"
#include "checkpoint/format/native/manifest_file.h"
#include "checkpoint/format/saved_state.h"

namespace waypoint {
absl::StatusOr<std::unique_ptr<CheckpointWriter>> NativeWriter::Create(FileSystem& fs, const std::string& directory,
                                                                       const CheckpointMetadata& metadata,
                                                                       TensorSource& state,
                                                                       const std::vector<Asset>& assets,
                                                                       const SaveOptions& options) {
  auto writer = std::unique_ptr<NativeWriter>(new NativeWriter(fs, directory, metadata, assets));
  WAYPOINT_ASSIGN_OR_RETURN(writer->shared_, NewSharedWrite(state, options));
  WAYPOINT_ASSIGN_OR_RETURN(SavedState saved,
                            SelectState(writer->shared_ == nullptr ? state : writer->shared_->state(), options));
  writer->source_ = std::move(saved.source);
  writer->notes_ = std::move(saved.notes);

  const Manifest& manifest = writer->source_->manifest();
  std::vector<int64_t> weights;
  std::vector<int64_t> optimizer_state;
  for (int64_t i = 0; i < manifest.size(); ++i) {
    (IsOptimizerState(manifest[i].name) ? optimizer_state : weights).push_back(i);
  }
  std::vector<SafetensorsFilePlan> files =
      PlanSafetensorsFiles(manifest, weights, kWeightsStem, options.max_shard_bytes, {{"format", "waypoint"}});
  for (SafetensorsFilePlan& file : PlanSafetensorsFiles(manifest, optimizer_state, kOptimizerStem,
                                                        options.max_shard_bytes, {{"format", "waypoint"}})) {
    files.push_back(std::move(file));
  }
  WAYPOINT_ASSIGN_OR_RETURN(
      writer->sink_,
      SafetensorsSink::Create(fs, directory, manifest, std::move(files),
                              writer->shared_ == nullptr ? options.block_bytes : writer->shared_->block_bytes()));
  return std::unique_ptr<CheckpointWriter>(std::move(writer));
}

std::vector<std::string> NativeWriter::PlanLines() const { return StatePlanLines(*source_); }

absl::StatusOr<TransferStats> NativeWriter::Write(const TransferOptions& options) {
  return shared_ == nullptr ? Transfer(*source_, *sink_, options) : shared_->Write(*source_, *source_, *sink_, options);
}

absl::Status NativeWriter::Finish() {
  return shared_ == nullptr ? Seal() : shared_->Seal([this] { return Seal(); });
}

absl::Status NativeWriter::Seal() {
  NativeManifest manifest;
  *manifest.mutable_metadata() = metadata_;
  for (const WrittenFile& written : sink_->written_files()) {
    const int file_index = manifest.files_size();
    FileRecord* file = manifest.add_files();
    file->set_name(written.name);
    file->set_kind(absl::StartsWith(written.name, kOptimizerStem) ? FileRecord::OPTIMIZER_STATE : FileRecord::WEIGHTS);
    file->set_size_bytes(written.size_bytes);
    SetDigests(written.digests, file);
    for (const SafetensorsEntry& entry : written.header.entries) {
      TensorRecord* tensor = manifest.add_tensors();
      tensor->set_name(entry.name);
      tensor->set_dtype(static_cast<int32_t>(entry.dtype));
      tensor->mutable_shape()->Add(entry.shape.begin(), entry.shape.end());
      tensor->set_file(file_index);
      tensor->set_begin(entry.begin);
      tensor->set_end(entry.end);
    }
  }
  WAYPOINT_ASSIGN_OR_RETURN(const std::vector<FileRecord> asset_files, CopyAssets(fs_, assets_, directory_));
  for (const FileRecord& file : asset_files) {
    *manifest.add_files() = file;
  }
  if (conversion_.has_value()) {
    AddConversion(*conversion_, asset_files, manifest.mutable_metadata());
  }
  // All that the manifest names is durable under its name before the manifest is there.
  WAYPOINT_RETURN_IF_ERROR(fs_.SyncDirectory(directory_));
  WAYPOINT_RETURN_IF_ERROR(WriteSmallFile(fs_, JoinPath(directory_, kManifestFileName), SerializeManifest(manifest)));
  return fs_.SyncDirectory(directory_);
}

}  // namespace waypoint
