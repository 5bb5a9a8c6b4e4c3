#include "checkpoint/format/external/hugging_face_writer.h"

#include <map>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/container/safetensors/index.h"
#include "checkpoint/container/safetensors/safetensors_sink.h"
#include "checkpoint/container/shard_files.h"
#include "checkpoint/container/torch_zip/torch_sink.h"
#include "checkpoint/convert/config/json_path.h"
#include "checkpoint/format/asset_copy.h"

namespace waypoint {
namespace {

constexpr char kWeightsOption[] = "weights";
constexpr char kBin[] = "bin";
constexpr char kSafetensors[] = "safetensors";

// Whether the weights become .bin files.
absl::StatusOr<bool> WantsBin(const FormatOptionValues& options) {
  const auto it = options.find(kWeightsOption);
  if (it == options.end() || it->second == kSafetensors) {
    return false;
  }
  if (it->second != kBin) {
    return MakeError(ErrorKind::kRequest, absl::StrCat("option \"", kWeightsOption, "\" is \"", it->second,
                                                       "\", wanted ", kSafetensors, " or ", kBin));
  }
  return true;
}

// Tensors of the same expression once; names of the others with the place of the one that is kept.
std::vector<std::pair<std::string, int64_t>> TakeRepeated(std::vector<ConvertedTensor>* tensors) {
  std::vector<std::pair<std::string, int64_t>> repeated;
  std::vector<ConvertedTensor> kept;
  std::map<std::string, int64_t> places;
  for (ConvertedTensor& tensor : *tensors) {
    const auto [it, fresh] = places.try_emplace(tensor.expression->ToString(), static_cast<int64_t>(kept.size()));
    if (fresh) {
      kept.push_back(std::move(tensor));
    } else {
      repeated.emplace_back(std::move(tensor.name), it->second);
    }
  }
  *tensors = std::move(kept);
  return repeated;
}

std::vector<int64_t> AllOf(const Manifest& manifest) {
  std::vector<int64_t> all(manifest.size());
  std::iota(all.begin(), all.end(), 0);
  return all;
}

}  // namespace

std::vector<FormatOption> HuggingFaceWriterOptions() {
  FormatOption weights;
  weights.name = kWeightsOption;
  weights.value = "safetensors|bin";
  weights.help =
      "files that hold the weights; safetensors unless asked for: readers take from it what they need and run nothing, "
      "while a .bin file is a pickle";
  weights.on_save = true;
  return {weights};
}

absl::StatusOr<std::unique_ptr<CheckpointWriter>> HuggingFaceWriter::Create(
    const HuggingFaceFamily& family, FileSystem& fs, const std::string& directory, const CheckpointMetadata& metadata,
    TensorSource& rank_state, const std::vector<Asset>& assets, const SaveOptions& options) {
  auto writer = std::unique_ptr<HuggingFaceWriter>(new HuggingFaceWriter(fs, directory, assets));
  WAYPOINT_ASSIGN_OR_RETURN(writer->together_, NewSharedWrite(rank_state, options));
  TensorSource& state = writer->together_ == nullptr ? rank_state : writer->together_->state();
  const std::vector<std::string> copies(metadata.stored_copies().begin(), metadata.stored_copies().end());
  WAYPOINT_ASSIGN_OR_RETURN(const FamilyModel model, family.Describe(metadata.model_config(), copies));

  // The state must be the model that its config describes.
  std::vector<TensorMeta> weights;
  for (const TensorMeta& parameter : model.parameters.tensors()) {
    const int64_t index = state.manifest().Find(parameter.name);
    if (index >= 0 && state.manifest()[index].shape != parameter.shape) {
      return MakeError(ErrorKind::kShape,
                       absl::StrCat("tensor \"", parameter.name, "\" is ", ShapeString(state.manifest()[index].shape),
                                    ", the config wants ", ShapeString(parameter.shape)));
    }
    if (index >= 0) {
      weights.push_back(state.manifest()[index]);
    }
  }
  WAYPOINT_ASSIGN_OR_RETURN(ExportPlan plan, PlanExport(model.rules, state.manifest()));
  writer->notes_ = std::move(plan.notes);
  const bool type_is_asked_for = options.weights_dtype != DType::kInvalid;
  if (type_is_asked_for) {
    for (ConvertedTensor& tensor : plan.tensors) {
      WAYPOINT_ASSIGN_OR_RETURN(tensor.expression, Cast(tensor.expression, options.weights_dtype));
    }
  }
  WAYPOINT_ASSIGN_OR_RETURN(const bool bin, WantsBin(options.format_options));
  if (bin) {
    writer->shared_ = TakeRepeated(&plan.tensors);
  }
  WAYPOINT_ASSIGN_OR_RETURN(writer->source_, ConvertedSource::Create(&state, std::move(plan.tensors)));

  const Manifest& manifest = writer->source_->manifest();
  Json original;
  HuggingFaceFamily::ExportOptions export_options;
  const auto text = metadata.external_configs().find("config.json");
  if (text != metadata.external_configs().end()) {
    WAYPOINT_ASSIGN_OR_RETURN(original, ParseJson(text->second, "the config.json that the model came with", Limits()));
    // A model of another format may bring one too, made for this family.
    if (metadata.external_format() == family.name() || family.Recognises(original)) {
      export_options.original = &original;
    }
  }
  export_options.weights_dtype = MainDType(manifest.tensors());
  // The config says their type when somebody asks for it, and when they were cast before: on the way into the state, or
  // by a trainer.
  const auto came_as = static_cast<DType>(metadata.external_dtype());
  export_options.weights_were_cast = type_is_asked_for || (came_as != DType::kInvalid && came_as != MainDType(weights));
  export_options.facts = metadata.facts();
  WAYPOINT_ASSIGN_OR_RETURN(const Json config, family.ExportConfig(metadata.model_config(), export_options));
  writer->config_text_ = DumpJson(config);
  if (export_options.original != nullptr) {
    writer->NoteLength(original, config);
  }

  WAYPOINT_RETURN_IF_ERROR(bin ? writer->PlanBin(options) : writer->PlanSafetensors(options));
  return std::unique_ptr<CheckpointWriter>(std::move(writer));
}

void HuggingFaceWriter::NoteLength(const Json& original, const Json& config) {
  constexpr char kLength[] = "max_position_embeddings";
  const Json* before = FindJson(original, {kLength});
  const Json* now = FindJson(config, {kLength});
  if (before != nullptr && now != nullptr && *before != *now) {
    notes_.push_back(absl::StrCat("\"", kLength, "\" is ", JsonText(*now),
                                  ", what the model was trained on since; it was ", JsonText(*before)));
  }
}

int64_t HuggingFaceWriter::BlockBytes(const SaveOptions& options) const {
  return together_ == nullptr ? options.block_bytes : together_->block_bytes();
}

absl::Status HuggingFaceWriter::PlanSafetensors(const SaveOptions& options) {
  const Manifest& manifest = source_->manifest();
  std::vector<SafetensorsFilePlan> files =
      PlanSafetensorsFiles(manifest, AllOf(manifest), "model", options.max_shard_bytes, {{"format", "pt"}});
  if (files.size() > 1) {
    index_name_ = std::string(kSafetensorsIndexName);
    for (const SafetensorsFilePlan& file : files) {
      for (const int64_t tensor : file.tensors) {
        weight_map_.emplace(manifest[tensor].name, file.name);
      }
    }
  }
  WAYPOINT_ASSIGN_OR_RETURN(sink_,
                            SafetensorsSink::Create(fs_, directory_, manifest, std::move(files), BlockBytes(options)));
  return absl::OkStatus();
}

absl::Status HuggingFaceWriter::PlanBin(const SaveOptions& options) {
  const Manifest& manifest = source_->manifest();
  std::map<int64_t, std::vector<std::string>> sharing;
  for (const auto& [name, tensor] : shared_) {
    sharing[tensor].push_back(name);
  }
  std::vector<TorchFilePlan> files;
  for (ShardFile& shard : PlanShardFiles(manifest, AllOf(manifest), "pytorch_model", ".bin", options.max_shard_bytes)) {
    TorchFilePlan file;
    file.name = std::move(shard.name);
    for (const int64_t tensor : shard.tensors) {
      file.entries.push_back({manifest[tensor].name, tensor});
      // Only tensors of one file can share.
      for (const std::string& name : sharing[tensor]) {
        file.entries.push_back({name, tensor});
      }
    }
    files.push_back(std::move(file));
  }
  if (files.size() > 1) {
    index_name_ = std::string(kBinIndexName);
    for (const TorchFilePlan& file : files) {
      for (const TorchFilePlan::Entry& entry : file.entries) {
        weight_map_.emplace(entry.key, file.name);
      }
    }
  }
  WAYPOINT_ASSIGN_OR_RETURN(sink_, TorchSink::Create(fs_, directory_, manifest, std::move(files), BlockBytes(options)));
  return absl::OkStatus();
}

std::vector<std::string> HuggingFaceWriter::PlanLines() const {
  std::vector<std::string> lines;
  for (const ConvertedTensor& tensor : source_->tensors()) {
    lines.push_back(absl::StrCat(tensor.name, " = ", tensor.expression->ToString()));
  }
  for (const auto& [name, tensor] : shared_) {
    const ConvertedTensor& other = source_->tensors()[tensor];
    lines.push_back(absl::StrCat(name, " = ", other.expression->ToString(), ", shared with ", other.name));
  }
  return lines;
}

absl::StatusOr<TransferStats> HuggingFaceWriter::Write(const TransferOptions& options) {
  return together_ == nullptr ? Transfer(*source_, *sink_, options)
                              : together_->Write(*source_, *source_, *sink_, options);
}

absl::Status HuggingFaceWriter::Finish() {
  return together_ == nullptr ? WriteSmallFiles() : together_->Seal([this] { return WriteSmallFiles(); });
}

absl::Status HuggingFaceWriter::WriteSmallFiles() {
  for (const Asset& asset : assets_) {
    WAYPOINT_RETURN_IF_ERROR(CopyAsset(fs_, asset, JoinPath(directory_, asset.name)).status());
  }
  if (!index_name_.empty()) {
    Json index_metadata = Json::object();
    // Shared elements count once.
    index_metadata["total_size"] = sink_->manifest().total_bytes();
    WAYPOINT_RETURN_IF_ERROR(
        WriteSmallFile(fs_, JoinPath(directory_, index_name_), BuildSafetensorsIndex(weight_map_, index_metadata)));
  }
  WAYPOINT_RETURN_IF_ERROR(WriteSmallFile(fs_, JoinPath(directory_, "config.json"), config_text_));
  return fs_.SyncDirectory(directory_);
}

}  // namespace waypoint
