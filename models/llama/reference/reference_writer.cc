#include "models/llama/reference/reference_writer.h"

#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/memory/memory.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/format/asset_copy.h"
#include "models/decoder/parameters.h"
#include "models/llama/reference/directory.h"
#include "models/llama/reference/weights.h"

namespace waypoint::models {

absl::StatusOr<std::unique_ptr<CheckpointWriter>> ReferenceWriter::Create(FileSystem& fs, const std::string& directory,
                                                                          const CheckpointMetadata& metadata,
                                                                          TensorSource& state,
                                                                          const std::vector<Asset>& assets,
                                                                          const SaveOptions& options) {
  WAYPOINT_ASSIGN_OR_RETURN(const ReferenceOptions reference, ParseReferenceOptions(options.format_options));
  for (const Asset& asset : assets) {
    if (asset.name == kParamsName || asset.name == kChecklistName || absl::EndsWith(asset.name, ".pth")) {
      return MakeError(ErrorKind::kRequest, absl::StrCat("asset \"", asset.name, "\" has a name of the format's own"));
    }
  }
  auto writer = absl::WrapUnique(new ReferenceWriter(fs, directory, assets));
  WAYPOINT_ASSIGN_OR_RETURN(writer->plan_, PlanReferenceExport(metadata, reference));
  WAYPOINT_RETURN_IF_ERROR(writer->PlanTensors(state, options, reference.emit_rope_freqs));
  WAYPOINT_ASSIGN_OR_RETURN(writer->sink_, TorchSink::Create(fs, directory, writer->source().manifest(),
                                                             writer->PlanFiles(), options.block_bytes));
  return std::unique_ptr<CheckpointWriter>(std::move(writer));
}

TensorSource& ReferenceWriter::source() {
  return with_tables_ == nullptr ? static_cast<TensorSource&>(*converted_) : *with_tables_;
}

absl::Status ReferenceWriter::PlanTensors(TensorSource& state, const SaveOptions& options, bool emit_rope_freqs) {
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
  WAYPOINT_ASSIGN_OR_RETURN(ExportPlan whole, PlanExport(ReferenceWeightRules(facts), state.manifest()));
  plan_.notes.insert(plan_.notes.end(), whole.notes.begin(), whole.notes.end());
  if (options.weights_dtype != DType::kInvalid) {
    for (ConvertedTensor& tensor : whole.tensors) {
      WAYPOINT_ASSIGN_OR_RETURN(tensor.expression, Cast(tensor.expression, options.weights_dtype));
    }
  }
  WAYPOINT_ASSIGN_OR_RETURN(std::vector<ConvertedTensor> split, SplitShards(whole.tensors, facts.shape, plan_.layout));
  if (facts.tied) {
    // Where both are cut alike, the file holds the elements once.
    const bool alike = plan_.layout.embedding_dim == 0;
    for (auto it = split.begin(); alike && it != split.end();) {
      it = absl::EndsWith(it->name, absl::StrCat("/", kReferenceOutput)) ? split.erase(it) : it + 1;
    }
  }
  WAYPOINT_ASSIGN_OR_RETURN(converted_, ConvertedSource::Create(&state, std::move(split)));
  if (emit_rope_freqs) {
    std::vector<std::string> names;
    for (int64_t file = 0; file < plan_.layout.files; ++file) {
      names.push_back(absl::StrCat(ReferencePrefix(file), "rope.freqs"));
    }
    WAYPOINT_ASSIGN_OR_RETURN(
        with_tables_, RopeTableSource::Create(*converted_, names, facts.theta, facts.shape.dim / facts.shape.heads));
  }
  return absl::OkStatus();
}

std::vector<TorchFilePlan> ReferenceWriter::PlanFiles() {
  std::vector<TorchFilePlan> files;
  absl::flat_hash_map<std::string, size_t> by_prefix;
  for (int64_t file = 0; file < plan_.layout.files; ++file) {
    const std::string prefix = ReferencePrefix(file);
    by_prefix.emplace(prefix.substr(0, prefix.size() - 1), files.size());
    TorchFilePlan plan;
    plan.name = ReferenceFileName(file);
    plan.folder = prefix.substr(0, prefix.size() - 1);
    files.push_back(std::move(plan));
  }
  const Manifest& manifest = source().manifest();
  for (int64_t tensor = 0; tensor < manifest.size(); ++tensor) {
    const std::string& name = manifest[tensor].name;
    const size_t slash = name.find('/');
    files[by_prefix.at(name.substr(0, slash))].entries.push_back({name.substr(slash + 1), tensor});
  }
  if (plan_.facts.tied && plan_.layout.embedding_dim == 0) {
    for (int64_t file = 0; file < plan_.layout.files; ++file) {
      files[file].entries.push_back(
          {kReferenceOutput, manifest.Find(absl::StrCat(ReferencePrefix(file), kReferenceEmbedding))});
    }
  }
  return files;
}

std::vector<std::string> ReferenceWriter::PlanLines() const {
  std::vector<std::string> lines;
  for (const ConvertedTensor& tensor : converted_->tensors()) {
    lines.push_back(absl::StrCat(tensor.name, " = ", tensor.expression->ToString()));
  }
  if (plan_.facts.tied && plan_.layout.embedding_dim == 0) {
    for (int64_t file = 0; file < plan_.layout.files; ++file) {
      lines.push_back(absl::StrCat(ReferencePrefix(file), kReferenceOutput, " = ", ReferencePrefix(file),
                                   kReferenceEmbedding, " (one storage)"));
    }
  }
  if (with_tables_ != nullptr) {
    for (int64_t file = 0; file < plan_.layout.files; ++file) {
      lines.push_back(absl::StrCat(ReferencePrefix(file), "rope.freqs = computed"));
    }
  }
  return lines;
}

absl::Status ReferenceWriter::Finish() {
  for (const Asset& asset : assets_) {
    WAYPOINT_RETURN_IF_ERROR(CopyAsset(fs_, asset, JoinPath(directory_, asset.name)).status());
  }
  WAYPOINT_RETURN_IF_ERROR(WriteSmallFile(fs_, JoinPath(directory_, kParamsName), plan_.params_text));
  return fs_.SyncDirectory(directory_);
}

}  // namespace waypoint::models
