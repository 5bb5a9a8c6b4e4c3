#include "checkpoint/format/external/hugging_face_writer.h"

#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/container/safetensors/index.h"
#include "checkpoint/format/asset_copy.h"

namespace waypoint {
namespace {

// The element type of most weights, by bytes.
DType MainDType(const Manifest& manifest) {
  std::map<DType, int64_t> bytes;
  DType main = DType::kInvalid;
  for (const TensorMeta& tensor : manifest.tensors()) {
    bytes[tensor.dtype] += tensor.num_bytes();
    if (main == DType::kInvalid || bytes[tensor.dtype] > bytes[main]) {
      main = tensor.dtype;
    }
  }
  return main;
}

}  // namespace

absl::StatusOr<std::unique_ptr<CheckpointWriter>> HuggingFaceWriter::Create(
    const HuggingFaceFamily& family, FileSystem& fs, const std::string& directory, const CheckpointMetadata& metadata,
    TensorSource& rank_state, const std::vector<Asset>& assets, const SaveOptions& options) {
  auto writer = std::unique_ptr<HuggingFaceWriter>(new HuggingFaceWriter(fs, directory, assets));
  WAYPOINT_ASSIGN_OR_RETURN(writer->shared_, NewSharedWrite(rank_state, options));
  TensorSource& state = writer->shared_ == nullptr ? rank_state : writer->shared_->state();
  const std::vector<std::string> copies(metadata.stored_copies().begin(), metadata.stored_copies().end());
  WAYPOINT_ASSIGN_OR_RETURN(const FamilyModel model, family.Describe(metadata.model_config(), copies));

  // The state must be the model that its config describes.
  for (const TensorMeta& parameter : model.parameters.tensors()) {
    const int64_t index = state.manifest().Find(parameter.name);
    if (index >= 0 && state.manifest()[index].shape != parameter.shape) {
      return MakeError(ErrorKind::kShape, absl::StrCat("tensor \"", parameter.name, "\" is ",
                                                       ShapeString(state.manifest()[index].shape),
                                                       ", the config wants ", ShapeString(parameter.shape)));
    }
  }
  WAYPOINT_ASSIGN_OR_RETURN(ExportPlan plan, PlanExport(model.rules, state.manifest()));
  writer->notes_ = std::move(plan.notes);
  bool cast = false;
  if (options.weights_dtype != DType::kInvalid) {
    for (ConvertedTensor& tensor : plan.tensors) {
      cast = cast || tensor.expression->dtype() != options.weights_dtype;
      WAYPOINT_ASSIGN_OR_RETURN(tensor.expression, Cast(tensor.expression, options.weights_dtype));
    }
  }
  WAYPOINT_ASSIGN_OR_RETURN(writer->source_, ConvertedSource::Create(&state, std::move(plan.tensors)));

  const Manifest& manifest = writer->source_->manifest();
  Json original;
  HuggingFaceFamily::ExportOptions export_options;
  const auto text = metadata.external_configs().find("config.json");
  if (text != metadata.external_configs().end() && metadata.external_format() == family.name()) {
    WAYPOINT_ASSIGN_OR_RETURN(original, ParseJson(text->second, "the config.json that the model came with", Limits()));
    export_options.original = &original;
  }
  export_options.weights_dtype = MainDType(manifest);
  export_options.weights_were_cast = cast;
  WAYPOINT_ASSIGN_OR_RETURN(const Json config, family.ExportConfig(metadata.model_config(), export_options));
  writer->config_text_ = DumpJson(config);

  std::vector<int64_t> tensors;
  for (int64_t i = 0; i < manifest.size(); ++i) {
    tensors.push_back(i);
  }
  WAYPOINT_ASSIGN_OR_RETURN(
      writer->sink_,
      SafetensorsSink::Create(fs, directory, manifest,
                              PlanSafetensorsFiles(manifest, tensors, "model", options.max_shard_bytes, {{"format", "pt"}}),
                              writer->shared_ == nullptr ? options.block_bytes : writer->shared_->block_bytes()));
  return std::unique_ptr<CheckpointWriter>(std::move(writer));
}

std::vector<std::string> HuggingFaceWriter::PlanLines() const {
  std::vector<std::string> lines;
  for (const ConvertedTensor& tensor : source_->tensors()) {
    lines.push_back(absl::StrCat(tensor.name, " = ", tensor.expression->ToString()));
  }
  return lines;
}

absl::StatusOr<TransferStats> HuggingFaceWriter::Write(const TransferOptions& options) {
  return shared_ == nullptr ? Transfer(*source_, *sink_, options) : shared_->Write(*source_, *sink_, options);
}

absl::Status HuggingFaceWriter::Finish() {
  return shared_ == nullptr ? WriteSmallFiles() : shared_->Seal([this] { return WriteSmallFiles(); });
}

absl::Status HuggingFaceWriter::WriteSmallFiles() {
  for (const Asset& asset : assets_) {
    WAYPOINT_RETURN_IF_ERROR(CopyAsset(fs_, asset, JoinPath(directory_, asset.name)).status());
  }
  const std::vector<WrittenFile> files = sink_->written_files();
  if (files.size() > 1) {
    std::map<std::string, std::string> weight_map;
    for (const WrittenFile& file : files) {
      for (const SafetensorsEntry& entry : file.header.entries) {
        weight_map.emplace(entry.name, file.name);
      }
    }
    Json index_metadata = Json::object();
    index_metadata["total_size"] = sink_->manifest().total_bytes();
    WAYPOINT_RETURN_IF_ERROR(WriteSmallFile(fs_, JoinPath(directory_, kSafetensorsIndexName),
                                            BuildSafetensorsIndex(weight_map, index_metadata)));
  }
  WAYPOINT_RETURN_IF_ERROR(WriteSmallFile(fs_, JoinPath(directory_, "config.json"), config_text_));
  return fs_.SyncDirectory(directory_);
}

}  // namespace waypoint
