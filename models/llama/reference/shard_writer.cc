#include "models/llama/reference/shard_writer.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/memory/memory.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/format/asset_copy.h"
#include "models/decoder/parameters.h"
#include "models/llama/reference/sidecars.h"
#include "models/llama/reference/weights.h"

namespace waypoint::models {

absl::StatusOr<std::unique_ptr<CheckpointWriter>> ShardWriter::Create(FileSystem& fs, const std::string& directory,
                                                                      ReferenceExport plan, ShardStyle style,
                                                                      std::unique_ptr<SharedWrite> together,
                                                                      TensorSource& state,
                                                                      const std::vector<Asset>& assets,
                                                                      const SaveOptions& options) {
  for (const Asset& asset : assets) {
    const bool taken = std::any_of(style.set.files.begin(), style.set.files.end(),
                                   [&asset](const ShardSet::File& file) { return file.name == asset.name; });
    // Loaders of the reference format take every *.pth.
    if (taken || asset.name == kParamsName || asset.name == kChecklistName || absl::EndsWith(asset.name, ".pth")) {
      return MakeError(ErrorKind::kRequest, absl::StrCat("asset \"", asset.name, "\" has a name of the format's own"));
    }
  }
  auto writer = absl::WrapUnique(new ShardWriter(fs, directory, assets, std::move(plan), std::move(style)));
  WAYPOINT_RETURN_IF_ERROR(writer->PlanTensors(state, options));
  const int64_t block_bytes = together == nullptr ? options.block_bytes : together->block_bytes();
  WAYPOINT_ASSIGN_OR_RETURN(
      writer->sink_, TorchSink::Create(fs, directory, writer->source().manifest(), writer->PlanFiles(), block_bytes));
  writer->together_ = std::move(together);
  return std::unique_ptr<CheckpointWriter>(std::move(writer));
}

TensorSource& ShardWriter::source() {
  return with_tables_ == nullptr ? static_cast<TensorSource&>(*converted_) : *with_tables_;
}

absl::Status ShardWriter::PlanTensors(TensorSource& state, const SaveOptions& options) {
  const LlamaFacts& facts = plan_.facts;
  // The state must be the model that its config describes.
  WAYPOINT_ASSIGN_OR_RETURN(const Manifest parameters, ParameterManifest(ConfigOf(facts), DType::kF32));
  for (const TensorMeta& parameter : parameters.tensors()) {
    const int64_t index = state.manifest().Find(parameter.name);
    if (index >= 0 && state.manifest()[index].shape != parameter.shape) {
      return MakeError(ErrorKind::kShape,
                       absl::StrCat("tensor \"", parameter.name, "\" is ", ShapeString(state.manifest()[index].shape),
                                    ", the config wants ", ShapeString(parameter.shape)));
    }
  }
  WAYPOINT_ASSIGN_OR_RETURN(ExportPlan whole,
                            PlanExport(InterleavedWeightRules(*style_.set.names, facts), state.manifest()));
  plan_.notes.insert(plan_.notes.end(), whole.notes.begin(), whole.notes.end());
  if (options.weights_dtype != DType::kInvalid) {
    for (ConvertedTensor& tensor : whole.tensors) {
      WAYPOINT_ASSIGN_OR_RETURN(tensor.expression, Cast(tensor.expression, options.weights_dtype));
    }
  }
  WAYPOINT_ASSIGN_OR_RETURN(std::vector<ConvertedTensor> split,
                            SplitShards(whole.tensors, style_.set, facts.shape, plan_.layout));
  if (SharesOutput()) {
    const std::string output = absl::StrCat("/", style_.set.names->output);
    split.erase(
        std::remove_if(split.begin(), split.end(),
                       [&output](const ConvertedTensor& tensor) { return absl::EndsWith(tensor.name, output); }),
        split.end());
  }
  WAYPOINT_ASSIGN_OR_RETURN(converted_, ConvertedSource::Create(&state, std::move(split)));
  if (style_.emit_rope_freqs) {
    std::vector<std::string> names;
    for (const ShardSet::File& file : style_.set.files) {
      names.push_back(absl::StrCat(file.prefix, "rope.freqs"));
    }
    WAYPOINT_ASSIGN_OR_RETURN(
        with_tables_, RopeTableSource::Create(*converted_, names, facts.theta, facts.shape.dim / facts.shape.heads));
  }
  return absl::OkStatus();
}

std::vector<TorchFilePlan> ShardWriter::PlanFiles() {
  std::vector<TorchFilePlan> files;
  absl::flat_hash_map<std::string, size_t> by_prefix;
  for (const ShardSet::File& file : style_.set.files) {
    by_prefix.emplace(file.prefix, files.size());
    TorchFilePlan plan;
    plan.name = file.name;
    plan.folder = file.prefix.substr(0, file.prefix.size() - 1);
    plan.wrapper = style_.wrapper;
    files.push_back(std::move(plan));
  }
  const Manifest& manifest = source().manifest();
  for (int64_t tensor = 0; tensor < manifest.size(); ++tensor) {
    const std::string& name = manifest[tensor].name;
    const size_t name_begin = name.find('/') + 1;
    files[by_prefix.at(name.substr(0, name_begin))].entries.push_back({name.substr(name_begin), tensor});
  }
  if (SharesOutput()) {
    const LlamaNames& names = *style_.set.names;
    for (size_t file = 0; file < files.size(); ++file) {
      files[file].entries.push_back(
          {std::string(names.output), manifest.Find(absl::StrCat(style_.set.files[file].prefix, names.embedding))});
    }
  }
  return files;
}

std::vector<std::string> ShardWriter::PlanLines() const {
  std::vector<std::string> lines;
  for (const ConvertedTensor& tensor : converted_->tensors()) {
    lines.push_back(absl::StrCat(tensor.name, " = ", tensor.expression->ToString()));
  }
  for (const ShardSet::File& file : style_.set.files) {
    if (SharesOutput()) {
      lines.push_back(absl::StrCat(file.prefix, style_.set.names->output, " = ", file.prefix,
                                   style_.set.names->embedding, " (one storage)"));
    }
    if (with_tables_ != nullptr) {
      lines.push_back(absl::StrCat(file.prefix, "rope.freqs = computed"));
    }
  }
  return lines;
}

absl::StatusOr<TransferStats> ShardWriter::Write(const TransferOptions& options) {
  return together_ == nullptr ? Transfer(source(), *sink_, options)
                              : together_->Write(source(), *converted_, *sink_, options);
}

absl::Status ShardWriter::Finish() {
  return together_ == nullptr ? WriteSmallFiles() : together_->Seal([this] { return WriteSmallFiles(); });
}

absl::Status ShardWriter::WriteSmallFiles() {
  for (const Asset& asset : assets_) {
    WAYPOINT_RETURN_IF_ERROR(CopyAsset(fs_, asset, JoinPath(directory_, asset.name)).status());
  }
  WAYPOINT_RETURN_IF_ERROR(WriteSmallFile(fs_, JoinPath(directory_, kParamsName), plan_.params_text));
  return fs_.SyncDirectory(directory_);
}

}  // namespace waypoint::models
