#include "checkpoint/format/native/native_writer.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/format/asset_copy.h"
#include "checkpoint/format/native/manifest_file.h"

namespace waypoint {
namespace {

constexpr char kOptimizerStem[] = "optimizer";

bool IsOptimizerState(absl::string_view tensor_name) { return absl::StrContains(tensor_name, '/'); }

void AppendDigests(const ChunkDigests& digests, FileRecord* file) {
  file->set_chunk_bytes(digests.chunk_bytes);
  std::string* bytes = file->mutable_chunk_digests();
  for (const uint64_t digest : digests.digests) {
    bytes->append(reinterpret_cast<const char*>(&digest), sizeof(digest));
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<CheckpointWriter>> NativeWriter::Create(FileSystem& fs, const std::string& directory,
                                                                       const CheckpointMetadata& metadata,
                                                                       TensorSource& state,
                                                                       const std::vector<Asset>& assets,
                                                                       const SaveOptions& options) {
  auto writer = std::unique_ptr<NativeWriter>(new NativeWriter(fs, directory, metadata, assets));
  std::vector<ConvertedTensor> tensors;
  int64_t dropped = 0;
  for (int64_t i = 0; i < state.manifest().size(); ++i) {
    const TensorMeta& meta = state.manifest()[i];
    if (IsOptimizerState(meta.name) && !options.optimizer_state) {
      ++dropped;
      continue;
    }
    Expr expression = Ref(meta, i);
    if (!IsOptimizerState(meta.name) && options.weights_dtype != DType::kInvalid) {
      WAYPOINT_ASSIGN_OR_RETURN(expression, Cast(expression, options.weights_dtype));
    }
    tensors.push_back({meta.name, std::move(expression)});
  }
  if (dropped > 0) {
    writer->notes_.push_back(absl::StrCat("left out ", dropped, " tensors of optimizer state, as asked"));
  }
  WAYPOINT_ASSIGN_OR_RETURN(writer->source_, ConvertedSource::Create(&state, std::move(tensors)));

  const Manifest& manifest = writer->source_->manifest();
  std::vector<int64_t> weights;
  std::vector<int64_t> optimizer_state;
  for (int64_t i = 0; i < manifest.size(); ++i) {
    (IsOptimizerState(manifest[i].name) ? optimizer_state : weights).push_back(i);
  }
  std::vector<SafetensorsFilePlan> files =
      PlanSafetensorsFiles(manifest, weights, "model", options.max_shard_bytes, {{"format", "waypoint"}});
  for (SafetensorsFilePlan& file : PlanSafetensorsFiles(manifest, optimizer_state, kOptimizerStem,
                                                        options.max_shard_bytes, {{"format", "waypoint"}})) {
    files.push_back(std::move(file));
  }
  WAYPOINT_ASSIGN_OR_RETURN(
      writer->sink_, SafetensorsSink::Create(fs, directory, manifest, std::move(files), options.block_bytes));
  return std::unique_ptr<CheckpointWriter>(std::move(writer));
}

std::vector<std::string> NativeWriter::PlanLines() const {
  std::vector<std::string> lines;
  for (const ConvertedTensor& tensor : source_->tensors()) {
    lines.push_back(absl::StrCat(tensor.name, " = ", tensor.expression->ToString()));
  }
  return lines;
}

absl::Status NativeWriter::Finish() {
  NativeManifest manifest;
  *manifest.mutable_metadata() = metadata_;
  for (const WrittenFile& written : sink_->written_files()) {
    const int file_index = manifest.files_size();
    FileRecord* file = manifest.add_files();
    file->set_name(written.name);
    file->set_kind(absl::StartsWith(written.name, kOptimizerStem) ? FileRecord::OPTIMIZER_STATE : FileRecord::WEIGHTS);
    file->set_size_bytes(written.size_bytes);
    AppendDigests(written.digests, file);
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
  if (!assets_.empty()) {
    const std::string asset_directory = JoinPath(directory_, "assets");
    WAYPOINT_RETURN_IF_ERROR(fs_.MakeDirectory(asset_directory));
    for (const Asset& asset : assets_) {
      WAYPOINT_ASSIGN_OR_RETURN(const ChunkDigests digests, CopyAsset(fs_, asset, JoinPath(asset_directory, asset.name)));
      FileRecord* file = manifest.add_files();
      file->set_name(absl::StrCat("assets/", asset.name));
      file->set_kind(FileRecord::ASSET);
      file->set_size_bytes(asset.size_bytes);
      AppendDigests(digests, file);
    }
    WAYPOINT_RETURN_IF_ERROR(fs_.SyncDirectory(asset_directory));
  }
  // All that the manifest names is durable under its name before the manifest is there.
  WAYPOINT_RETURN_IF_ERROR(fs_.SyncDirectory(directory_));
  WAYPOINT_RETURN_IF_ERROR(WriteSmallFile(fs_, JoinPath(directory_, kManifestFileName), SerializeManifest(manifest)));
  return fs_.SyncDirectory(directory_);
}

}  // namespace waypoint
