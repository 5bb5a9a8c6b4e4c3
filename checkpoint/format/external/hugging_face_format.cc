#include "checkpoint/format/external/hugging_face_format.h"

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/catch_allocation.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/json.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/container/file_kind.h"
#include "checkpoint/container/safetensors/safetensors_source.h"
#include "checkpoint/container/torch_zip/torch_source.h"
#include "checkpoint/convert/config/json_path.h"
#include "checkpoint/convert/weights/converted_source.h"
#include "checkpoint/format/external/equal_tensors.h"
#include "checkpoint/format/external/hf_assets.h"
#include "checkpoint/format/external/hf_directory.h"
#include "checkpoint/format/external/hugging_face_writer.h"
#include "checkpoint/format/format_options.h"
#include "checkpoint/format/strip_prefix.h"
#include "checkpoint/storage/confined_directory.h"

namespace waypoint {
namespace {

// Takes the headers out of `hf`.
absl::StatusOr<std::unique_ptr<TensorSource>> OpenWeights(FileSystem& fs, HfDirectory& hf, const LoadOptions& options) {
  if (hf.shards.empty()) {
    std::vector<TorchContents> files;
    TorchSourceOptions source_options;
    for (HfBinShard& shard : hf.bin_shards) {
      files.push_back(std::move(shard.contents));
      source_options.recorders.push_back(shard.recorder);
    }
    source_options.limits = options.limits;
    source_options.reader.window_bytes = options.window_bytes;
    source_options.reader.gap_bytes = options.gap_bytes;
    source_options.reader.max_over_read = options.max_over_read;
    source_options.verify = options.verify_digests;
    source_options.verify_whole = options.verify_whole_records;
    return TorchSource::Create(fs, std::move(files), source_options);
  }
  std::vector<SafetensorsFile> files;
  for (HfShard& shard : hf.shards) {
    files.push_back({shard.path, std::move(shard.header), {}, shard.recorder});
  }
  SafetensorsSourceOptions source_options;
  source_options.window_bytes = options.window_bytes;
  source_options.gap_bytes = options.gap_bytes;
  source_options.max_over_read = options.max_over_read;
  return SafetensorsSource::Create(fs, std::move(files), source_options);
}

std::vector<absl::string_view> ExternalNames(const WeightRules& rules) {
  std::vector<absl::string_view> names;
  for (const WeightRule& rule : rules.rules()) {
    names.insert(names.end(), rule.external.begin(), rule.external.end());
  }
  return names;
}

std::vector<absl::string_view> NamesOf(const Manifest& manifest) {
  std::vector<absl::string_view> names;
  for (const TensorMeta& tensor : manifest.tensors()) {
    names.push_back(tensor.name);
  }
  return names;
}

// What is in the place of a model that the family knows.
std::string WhyNoModel(FileSystem& fs, const ConfinedDirectory& files, const HuggingFaceFamily& family) {
  if (files.Has("config.json")) {
    // It was read before, by Probe.
    const auto path = files.Resolve("config.json");
    const auto text = path.ok() ? ReadSmallFile(fs, *path, Limits().json_file_bytes, "") : path;
    const auto config = text.ok() ? ParseJson(*text, "config.json", Limits()) : text.status();
    if (!config.ok() || !config->is_object()) {
      return "";
    }
    const auto type = config->find("model_type");
    return type == config->end() ? "its config.json has no model_type"
                                 : absl::StrCat("its config.json has model_type ", JsonText(*type),
                                                ", no model that \"", family.name(), "\" reads");
  }
  return "it has no config.json";
}

class HuggingFaceFormat : public CheckpointFormat {
 public:
  explicit HuggingFaceFormat(std::unique_ptr<HuggingFaceFamily> family) : family_(std::move(family)) {}

  std::string name() const override { return family_->name(); }
  std::string description() const override { return family_->description(); }
  bool external() const override { return true; }
  bool supports_optimizer_state() const override { return false; }
  bool written_by_many_ranks() const override { return true; }
  bool split_by_bytes() const override { return true; }
  std::vector<FormatOption> options() const override { return HuggingFaceWriterOptions(); }

  absl::StatusOr<bool> Probe(FileSystem& fs, const std::string& directory) override {
    WAYPOINT_ASSIGN_OR_RETURN(const ConfinedDirectory files, ConfinedDirectory::Open(fs, directory));
    if (!files.Has("config.json")) {
      return false;
    }
    WAYPOINT_ASSIGN_OR_RETURN(const std::string path, files.Resolve("config.json"));
    const std::string shown = QuotedPath(JoinPath(directory, "config.json"));
    const Limits limits;
    WAYPOINT_ASSIGN_OR_RETURN(const std::string text,
                              ReadSmallRealFile(fs, path, limits.json_file_bytes, "json_file_bytes"));
    WAYPOINT_ASSIGN_OR_RETURN(const Json config, ParseJson(text, shown, limits));
    if (!config.is_object()) {
      return MakeError(ErrorKind::kSchema, absl::StrCat(shown, " is no JSON object"));
    }
    return family_->Recognises(config);
  }

  absl::StatusOr<std::vector<std::string>> OwnFiles(FileSystem& fs, const std::string& directory) const override {
    return HfOwnFiles(fs, directory);
  }

  std::string WhyNot(FileSystem& fs, const std::string& directory) const override {
    const auto files = ConfinedDirectory::Open(fs, directory);
    return files.ok() ? WhyNoModel(fs, *files, *family_) : "";
  }

  absl::StatusOr<std::map<std::string, std::vector<CarriedKey>>> FindCarriedKeys(
      const CheckpointMetadata& metadata) const override {
    std::map<std::string, std::vector<CarriedKey>> keys;
    const auto text = metadata.external_configs().find("config.json");
    if (text != metadata.external_configs().end()) {
      WAYPOINT_ASSIGN_OR_RETURN(const Json config,
                                ParseJson(text->second, "the config.json that the model came with", Limits()));
      WAYPOINT_ASSIGN_OR_RETURN(keys[text->first], family_->FindCarriedKeys(config));
    }
    return keys;
  }

  absl::StatusOr<OpenedCheckpoint> Open(FileSystem& fs, const std::string& directory,
                                        const LoadOptions& options) override {
    return CatchAllocation("what a checkpoint says of itself", "free memory, or allow more (ulimit -v)",
                           [&] { return OpenThrowing(fs, directory, options); });
  }

  absl::StatusOr<OpenedCheckpoint> OpenThrowing(FileSystem& fs, const std::string& directory,
                                                const LoadOptions& options) {
    WAYPOINT_RETURN_IF_ERROR(CheckFormatOptions(*this, options.format_options, FormatUse::kLoad));
    WAYPOINT_ASSIGN_OR_RETURN(HfDirectory hf, ReadHfDirectory(fs, directory, options));
    const auto annotate = [&directory](const absl::Status& status) {
      return Annotate(status, absl::StrCat("\"", directory, "\""));
    };
    int64_t tensors_present = 0;
    for (const HfBinShard& shard : hf.bin_shards) {
      tensors_present += static_cast<int64_t>(shard.contents.tensors.size());
    }
    for (const HfShard& shard : hf.shards) {
      tensors_present += static_cast<int64_t>(shard.header.entries.size());
    }
    auto model = family_->Import(hf.config, options.carry_unknown, tensors_present);
    if (!model.ok()) {
      return Annotate(model.status(), absl::StrCat("\"", JoinPath(directory, "config.json"), "\""));
    }
    WAYPOINT_ASSIGN_OR_RETURN(std::unique_ptr<TensorSource> source, OpenWeights(fs, hf, options));
    auto plan = PlanImport(model->rules, model->parameters, source->manifest(), options.joined_dtype);
    if (!plan.ok()) {
      return annotate(WithRemedy(plan.status(), StripRemedy(ExternalNames(model->rules), NamesOf(source->manifest()))));
    }

    OpenedCheckpoint opened;
    for (const ConvertedTensor& copy : plan->copies) {
      const int64_t index = source->manifest().Find(copy.name);
      WAYPOINT_ASSIGN_OR_RETURN(const bool equal, TensorsAreEqual(*source, index, copy.expression->tensor()));
      if (!equal) {
        return annotate(MakeError(ErrorKind::kConfig,
                                  absl::StrCat("the config ties \"", copy.name, "\" to \"", copy.expression->name(),
                                               "\", but the file holds different values for them; set "
                                               "tie_word_embeddings to false to use both")));
      }
      opened.metadata.add_stored_copies(copy.name);
    }
    *opened.metadata.mutable_model_config() = model->config;
    opened.metadata.set_external_format(family_->name());
    (*opened.metadata.mutable_external_configs())["config.json"] = hf.config_text;
    opened.assets = std::move(hf.assets);
    opened.files = std::move(hf.files);
    for (std::vector<std::string>* notes : {&hf.notes, &model->notes, &plan->notes}) {
      opened.notes.insert(opened.notes.end(), notes->begin(), notes->end());
    }
    WAYPOINT_ASSIGN_OR_RETURN(opened.tensors, ConvertedSource::Create(std::move(source), std::move(plan->tensors)));
    opened.metadata.set_external_dtype(static_cast<int32_t>(MainDType(opened.tensors->manifest().tensors())));
    return opened;
  }

  absl::StatusOr<std::unique_ptr<CheckpointWriter>> Create(FileSystem& fs, const std::string& directory,
                                                           const CheckpointMetadata& metadata, TensorSource& state,
                                                           const std::vector<Asset>& assets,
                                                           const SaveOptions& options) override {
    WAYPOINT_RETURN_IF_ERROR(CheckFormatOptions(*this, options.format_options, FormatUse::kSave));
    return HuggingFaceWriter::Create(*family_, fs, directory, metadata, state, assets, options);
  }

 private:
  const std::unique_ptr<HuggingFaceFamily> family_;
};

}  // namespace

std::unique_ptr<CheckpointFormat> NewHuggingFaceFormat(std::unique_ptr<HuggingFaceFamily> family) {
  return std::make_unique<HuggingFaceFormat>(std::move(family));
}

}  // namespace waypoint
