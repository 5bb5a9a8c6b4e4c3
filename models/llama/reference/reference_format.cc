#include "models/llama/reference/reference_format.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/json.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/container/torch_zip/torch_source.h"
#include "checkpoint/convert/weights/converted_source.h"
#include "checkpoint/format/external/equal_tensors.h"
#include "checkpoint/format/format_options.h"
#include "models/decoder/parameters.h"
#include "models/llama/llama_config.h"
#include "models/llama/reference/directory.h"
#include "models/llama/reference/export_plan.h"
#include "models/llama/reference/options.h"
#include "models/llama/reference/reference_writer.h"
#include "models/llama/reference/shards.h"
#include "models/llama/reference/weights.h"

namespace waypoint::models {
namespace {

// Are both the same elements of the file?
bool ShareStorage(const std::vector<TorchContents>& files, absl::string_view a, absl::string_view b) {
  for (size_t file = 0; file < files.size(); ++file) {
    const auto find = [&](absl::string_view name) {
      const std::string full = absl::StrCat(ReferencePrefix(static_cast<int64_t>(file)), name);
      return std::find_if(files[file].tensors.begin(), files[file].tensors.end(),
                          [&full](const TorchTensor& tensor) { return tensor.name == full; });
    };
    const auto left = find(a);
    const auto right = find(b);
    if (left == files[file].tensors.end() || right == files[file].tensors.end() || left->storage != right->storage ||
        left->offset != right->offset || left->strides != right->strides || left->shape != right->shape ||
        left->dtype != right->dtype) {
      return false;
    }
  }
  return true;
}

// One open; everything that it learns on the way.
class Opener {
 public:
  Opener(const LoadOptions& options, ReferenceOptions reference)
      : options_(options), reference_(std::move(reference)) {}

  absl::StatusOr<OpenedCheckpoint> Open(FileSystem& fs, ReferenceDirectory directory) {
    WAYPOINT_RETURN_IF_ERROR(ReadParams(directory));
    const bool one_storage = ShareStorage(directory.files, kReferenceOutput, kReferenceEmbedding);
    const int64_t count = static_cast<int64_t>(directory.files.size());
    TorchSourceOptions source_options;
    source_options.reader.window_bytes = options_.window_bytes;
    source_options.reader.gap_bytes = options_.gap_bytes;
    source_options.verify = options_.verify_digests;
    source_options.verify_whole = options_.verify_whole_records;
    WAYPOINT_ASSIGN_OR_RETURN(auto files, TorchSource::Create(fs, std::move(directory.files), source_options));
    WAYPOINT_ASSIGN_OR_RETURN(const ShardedTensors shards, ReadShards(files->manifest(), count));
    WAYPOINT_ASSIGN_OR_RETURN(const StoredKvHeads kv, FindKvHeads(shards.tensors, Params(), reference_.hints));
    WAYPOINT_ASSIGN_OR_RETURN(const int64_t copies, KvCopies(*files, shards, kv));
    WAYPOINT_ASSIGN_OR_RETURN(ReferenceModel model,
                              ResolveReferenceModel(shards.tensors, kv.stored / copies, Params(), reference_.hints));
    WAYPOINT_RETURN_IF_ERROR(ReportReplicas(*files, shards));

    WAYPOINT_ASSIGN_OR_RETURN(std::vector<ConvertedTensor> merged, MergeShards(files->manifest(), shards, copies));
    WAYPOINT_ASSIGN_OR_RETURN(auto whole, ConvertedSource::Create(std::move(files), std::move(merged)));
    const bool by_storage = one_storage && shards.embedding_dim == 0;
    WAYPOINT_ASSIGN_OR_RETURN(const bool tied, IsTied(*whole, by_storage));
    model.config.set_tied_embedding_weight(tied);
    WAYPOINT_ASSIGN_OR_RETURN(const LlamaFacts facts, FactsOf(model.config));
    WAYPOINT_ASSIGN_OR_RETURN(const Manifest parameters, ParameterManifest(model.config, DType::kF32));
    WAYPOINT_ASSIGN_OR_RETURN(ImportPlan plan, PlanImport(ReferenceWeightRules(facts), parameters, whole->manifest()));
    const DType weights = plan.tensors[0].expression->dtype();

    OpenedCheckpoint opened;
    opened.metadata.mutable_model_config()->PackFrom(model.config);
    opened.metadata.set_external_format("reference");
    auto& configs = *opened.metadata.mutable_external_configs();
    if (!directory.params_text.empty() && !reference_.ignore_params) {
      configs[kParamsName] = directory.params_text;
      configs[kLayoutKey] = LayoutText({count, shards.embedding_dim});
    }
    WAYPOINT_ASSIGN_OR_RETURN(configs["config.json"], HuggingFaceConfig(model, weights));
    if (reference_.hints.architecture == nullptr) {
      notes_.push_back(
          absl::StrCat("assumed ", model.max_positions,
                       " positions, for a Hugging Face config only: params.json does not say; --model settles it"));
    }
    opened.assets = std::move(directory.assets);
    for (std::vector<std::string>* notes : {&directory.notes, &notes_, &model.notes, &plan.notes}) {
      opened.notes.insert(opened.notes.end(), notes->begin(), notes->end());
    }
    WAYPOINT_ASSIGN_OR_RETURN(opened.tensors, ConvertedSource::Create(std::move(whole), std::move(plan.tensors)));
    return opened;
  }

 private:
  // Null when there is nothing to believe.
  const ReferenceParams* Params() const { return params_.has_value() ? &*params_ : nullptr; }

  absl::Status ReadParams(const ReferenceDirectory& directory) {
    const bool named = reference_.hints.architecture != nullptr;
    if (reference_.ignore_params || !directory.params.has_value()) {
      if (!named) {
        return MakeError(ErrorKind::kMissing,
                         absl::StrCat(reference_.ignore_params ? "params.json is not read" : "there is no params.json",
                                      ", so that --model must say which released model this is"));
      }
      notes_.push_back(
          absl::StrCat("took what params.json would say from --model ", reference_.hints.architecture->name));
      return absl::OkStatus();
    }
    auto params = ReadReferenceParams(*directory.params, options_.carry_unknown);
    if (!params.ok()) {
      return Annotate(params.status(), kParamsName);
    }
    params_ = *std::move(params);
    return absl::OkStatus();
  }

  absl::StatusOr<int64_t> KvCopies(TensorSource& files, const ShardedTensors& shards, const StoredKvHeads& kv) {
    if (kv.copies == 1) {
      return int64_t{1};
    }
    WAYPOINT_ASSIGN_OR_RETURN(const int64_t found, CountKvCopies(files, shards));
    if (kv.copies > 1 && found % kv.copies != 0) {
      return MakeError(ErrorKind::kConfig,
                       absl::StrCat("each of ", kv.stored / kv.copies, " heads of keys and values should be stored ",
                                    kv.copies, " times, but neighbouring files hold different ones"));
    }
    const int64_t copies = kv.copies > 1 ? kv.copies : found;
    if (copies > 1) {
      notes_.push_back(absl::StrCat("the ", kv.stored, " heads of keys and values are ", copies, " copies of each of ",
                                    kv.stored / copies, ": kept one of each"));
    }
    return copies;
  }

  absl::Status ReportReplicas(TensorSource& files, const ShardedTensors& shards) {
    WAYPOINT_ASSIGN_OR_RETURN(const ReplicaDeviation deviation,
                              CompareReplicas(files, shards, reference_.replica_tolerance));
    if (deviation.tensors > 0) {
      notes_.push_back(absl::StrCat(deviation.tensors, " tensors that every file holds differ between files, by ",
                                    deviation.largest, " at most (\"", deviation.tensor, "\"): took those of ",
                                    ReferenceFileName(0)));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<bool> IsTied(TensorSource& whole, bool one_storage) {
    const int64_t output = whole.manifest().Find(kReferenceOutput);
    const int64_t embedding = whole.manifest().Find(kReferenceEmbedding);
    if (output < 0) {
      if (reference_.tied != true) {
        return MakeError(ErrorKind::kMissing,
                         absl::StrCat("there is no tensor \"", kReferenceOutput,
                                      "\"; --tied yes takes the embedding for it, if that is meant"));
      }
      notes_.push_back(absl::StrCat("there is no tensor \"", kReferenceOutput, "\": took the embedding for it"));
      return true;
    }
    if (reference_.tied == false) {
      return false;
    }
    bool equal = one_storage;
    if (!equal) {
      WAYPOINT_ASSIGN_OR_RETURN(equal, TensorsAreEqual(whole, output, embedding));
    }
    if (!equal && reference_.tied == true) {
      return MakeError(ErrorKind::kConfig, absl::StrCat("--tied yes, but \"", kReferenceOutput, "\" and \"",
                                                        kReferenceEmbedding, "\" hold different values"));
    }
    const LlamaArchitecture* architecture = reference_.hints.architecture;
    if (architecture != nullptr && architecture->tied != equal) {
      notes_.push_back(equal ? absl::StrCat("the output head is the embedding, ", architecture->name, " has its own")
                             : absl::StrCat("the output head is not the embedding, as ", architecture->name,
                                            " has it: kept as a head of its own"));
    }
    return equal;
  }

  // What transformers' conversion script writes beside the model's own keys.
  static absl::StatusOr<std::string> HuggingFaceConfig(const ReferenceModel& model, DType weights) {
    ExportConfigOptions export_options;
    export_options.max_position_embeddings = model.max_positions;
    export_options.weights_dtype = weights;
    WAYPOINT_ASSIGN_OR_RETURN(Json config, ExportLlamaConfig(model.config, nullptr, export_options));
    if (model.config.vocab_size() == 32000) {
      config["bos_token_id"] = 1;
      config["eos_token_id"] = 2;
    } else if (model.config.vocab_size() == 128256) {
      config["bos_token_id"] = 128000;
      config["eos_token_id"] = 128001;
    }
    return DumpJson(config);
  }

  const LoadOptions& options_;
  const ReferenceOptions reference_;
  absl::optional<ReferenceParams> params_;
  std::vector<std::string> notes_;
};

class ReferenceFormat : public CheckpointFormat {
 public:
  std::string name() const override { return "reference"; }
  std::string description() const override {
    return "Meta's reference code: params.json and consolidated.NN.pth (Llama 1 to 3.x)";
  }
  bool external() const override { return true; }
  bool supports_optimizer_state() const override { return false; }
  bool split_by_bytes() const override { return false; }
  std::vector<FormatOption> options() const override { return ReferenceFormatOptions(); }

  absl::StatusOr<bool> Probe(FileSystem& fs, const std::string& directory) override {
    return LooksLikeReference(fs, directory);
  }

  absl::StatusOr<OpenedCheckpoint> Open(FileSystem& fs, const std::string& directory,
                                        const LoadOptions& options) override {
    WAYPOINT_RETURN_IF_ERROR(CheckFormatOptions(*this, options.format_options, FormatUse::kLoad));
    WAYPOINT_ASSIGN_OR_RETURN(ReferenceOptions reference, ParseReferenceOptions(options.format_options));
    WAYPOINT_ASSIGN_OR_RETURN(ReferenceDirectory files, ReadReferenceDirectory(fs, directory, options));
    auto opened = Opener(options, std::move(reference)).Open(fs, std::move(files));
    if (!opened.ok()) {
      return Annotate(opened.status(), QuotedPath(directory));
    }
    return opened;
  }

  absl::StatusOr<std::unique_ptr<CheckpointWriter>> Create(FileSystem& fs, const std::string& directory,
                                                           const CheckpointMetadata& metadata, TensorSource& state,
                                                           const std::vector<Asset>& assets,
                                                           const SaveOptions& options) override {
    WAYPOINT_RETURN_IF_ERROR(CheckFormatOptions(*this, options.format_options, FormatUse::kSave));
    return ReferenceWriter::Create(fs, directory, metadata, state, assets, options);
  }
};

}  // namespace

std::unique_ptr<CheckpointFormat> NewReferenceFormat() { return std::make_unique<ReferenceFormat>(); }

}  // namespace waypoint::models
