#include "models/llama/reference/import_shards.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/json.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/convert/weights/converted_source.h"
#include "checkpoint/format/external/equal_tensors.h"
#include "checkpoint/format/strip_prefix.h"
#include "models/decoder/parameters.h"
#include "models/llama/llama_config.h"
#include "models/llama/reference/export_plan.h"

namespace waypoint::models {
namespace {

// One import; everything that it learns on the way.
class Importer {
 public:
  Importer(ShardedCheckpoint checkpoint, const ReferenceOptions& options)
      : options_(options), checkpoint_(std::move(checkpoint)), names_(*checkpoint_.set.names) {}

  absl::StatusOr<OpenedCheckpoint> Import() {
    TensorSource& files = *checkpoint_.files;
    WAYPOINT_ASSIGN_OR_RETURN(const ShardedTensors shards, ReadShards(files.manifest(), checkpoint_.set));
    WAYPOINT_ASSIGN_OR_RETURN(const StoredKvHeads kv, FindKvHeads(shards.tensors, Params(), options_.hints));
    WAYPOINT_ASSIGN_OR_RETURN(const int64_t copies, KvCopies(files, shards, kv));
    WAYPOINT_ASSIGN_OR_RETURN(ReferenceModel model,
                              ResolveReferenceModel(shards.tensors, kv.stored / copies, Params(), options_.hints));
    WAYPOINT_RETURN_IF_ERROR(ReportReplicas(files, shards));

    WAYPOINT_ASSIGN_OR_RETURN(std::vector<ConvertedTensor> merged, MergeShards(files.manifest(), shards, copies));
    WAYPOINT_ASSIGN_OR_RETURN(auto whole, ConvertedSource::Create(std::move(checkpoint_.files), std::move(merged)));
    // Cut differently, equal parts are no equal tensors.
    const bool shared = checkpoint_.shared_output && shards.embedding_dim == 0;
    WAYPOINT_ASSIGN_OR_RETURN(const bool tied, IsTied(*whole, shared));
    model.config.set_tied_embedding_weight(tied);
    WAYPOINT_ASSIGN_OR_RETURN(const LlamaFacts facts, FactsOf(model.config));
    WAYPOINT_ASSIGN_OR_RETURN(const Manifest parameters, ParameterManifest(model.config, DType::kF32));
    WAYPOINT_ASSIGN_OR_RETURN(ImportPlan plan,
                              PlanImport(InterleavedWeightRules(names_, facts), parameters, whole->manifest()));
    const DType weights = plan.tensors[0].expression->dtype();

    OpenedCheckpoint opened;
    opened.metadata.mutable_model_config()->PackFrom(model.config);
    auto& configs = *opened.metadata.mutable_external_configs();
    configs[kLayoutKey] = LayoutText({checkpoint_.set.count(), shards.embedding_dim});
    WAYPOINT_ASSIGN_OR_RETURN(configs["config.json"], HuggingFaceConfig(model, weights));
    opened.metadata.set_external_dtype(static_cast<int32_t>(weights));
    if (options_.hints.architecture == nullptr) {
      notes_.push_back(
          absl::StrCat("assumed ", model.max_positions,
                       " positions, for a Hugging Face config only: params.json does not say; --model settles it"));
    }
    if (model.bos_token < 0) {
      notes_.push_back(
          "a Hugging Face config gets no bos_token_id and eos_token_id: nothing tells whose tokenizer it is; --model "
          "settles it");
    }
    for (std::vector<std::string>* notes : {&notes_, &model.notes, &plan.notes}) {
      opened.notes.insert(opened.notes.end(), notes->begin(), notes->end());
    }
    WAYPOINT_ASSIGN_OR_RETURN(opened.tensors, ConvertedSource::Create(std::move(whole), std::move(plan.tensors)));
    return opened;
  }

 private:
  // Null when there is nothing to believe.
  const ReferenceParams* Params() const { return checkpoint_.params.has_value() ? &*checkpoint_.params : nullptr; }

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
    const bool guessed = kv.copies == 0;
    if (guessed && found > 1) {
      WAYPOINT_ASSIGN_OR_RETURN(const bool told, KvHeadsHaveValues(files, shards));
      if (!told) {
        notes_.push_back(absl::StrCat("all elements of the ", kv.stored,
                                      " heads of keys and values are the same, which does not tell whether they are "
                                      "copies: kept all of them; --kv-copies says it"));
        return int64_t{1};
      }
    }
    const int64_t copies = guessed ? found : kv.copies;
    if (copies > 1) {
      notes_.push_back(absl::StrCat("the ", kv.stored, " heads of keys and values are ", copies, " copies of each of ",
                                    kv.stored / copies, ": kept one of each",
                                    guessed ? "; --kv-copies 1 keeps all" : ""));
    }
    return copies;
  }

  absl::Status ReportReplicas(TensorSource& files, const ShardedTensors& shards) {
    WAYPOINT_ASSIGN_OR_RETURN(const ReplicaDeviation deviation,
                              CompareReplicas(files, shards, options_.replica_tolerance));
    if (deviation.tensors > 0) {
      notes_.push_back(absl::StrCat(deviation.tensors, " tensors that every file holds differ between files, by ",
                                    deviation.largest, " at most (\"", deviation.tensor, "\"): took those of ",
                                    checkpoint_.set.files[0].name));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<bool> IsTied(TensorSource& whole, bool one_storage) {
    const int64_t output = whole.manifest().Find(names_.output);
    const int64_t embedding = whole.manifest().Find(names_.embedding);
    if (output < 0) {
      if (options_.tied != true) {
        return MakeError(ErrorKind::kMissing,
                         absl::StrCat("there is no tensor \"", names_.output,
                                      "\"; --tied yes takes the embedding for it, if that is meant"));
      }
      notes_.push_back(absl::StrCat("there is no tensor \"", names_.output, "\": took the embedding for it"));
      return true;
    }
    if (options_.tied == false) {
      return false;
    }
    const LlamaArchitecture* architecture = options_.hints.architecture;
    bool equal = one_storage;
    if (!equal) {
      WAYPOINT_ASSIGN_OR_RETURN(equal, TensorsAreEqual(whole, output, embedding));
      if (equal && !options_.tied.has_value()) {
        WAYPOINT_ASSIGN_OR_RETURN(const bool untold, HasOneValue(whole, embedding));
        if (untold) {
          equal = architecture != nullptr && architecture->tied;
          notes_.push_back(absl::StrCat(
              "all elements of the output head and the embedding are the same, which does not tell whether they are "
              "one: ",
              equal ? absl::StrCat("kept one, as ", architecture->name, " has it") : "kept both", "; --tied says it"));
          return equal;
        }
      }
    }
    if (!equal && options_.tied == true) {
      return MakeError(ErrorKind::kConfig, absl::StrCat("--tied yes, but \"", names_.output, "\" and \"",
                                                        names_.embedding, "\" hold different values"));
    }
    if (equal && !one_storage && architecture == nullptr && !options_.tied.has_value()) {
      notes_.push_back("the output head has the values of the embedding: kept one of them; --tied no keeps both");
    }
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
    if (model.bos_token >= 0) {
      config["bos_token_id"] = model.bos_token;
      config["eos_token_id"] = model.eos_token;
    }
    return DumpJson(config);
  }

  const ReferenceOptions& options_;
  ShardedCheckpoint checkpoint_;
  const LlamaNames& names_;
  std::vector<std::string> notes_;
};

}  // namespace

bool ShareStorage(const TorchContents& file, absl::string_view a, absl::string_view b) {
  const auto find = [&file](absl::string_view name) {
    return std::find_if(file.tensors.begin(), file.tensors.end(),
                        [name](const TorchTensor& tensor) { return tensor.name == name; });
  };
  const auto left = find(a);
  const auto right = find(b);
  return left != file.tensors.end() && right != file.tensors.end() && left->storage == right->storage &&
         left->offset == right->offset && left->strides == right->strides && left->shape == right->shape &&
         left->dtype == right->dtype;
}

std::string UnwrapRemedy(const TorchContents& file, const LlamaNames& names, absl::string_view prefix) {
  std::vector<absl::string_view> present;
  for (const TorchTensor& tensor : file.tensors) {
    present.push_back(absl::StripPrefix(tensor.name, prefix));
  }
  return StripRemedy({names.embedding, names.final_norm, names.output}, present);
}

absl::StatusOr<OpenedCheckpoint> ImportShards(ShardedCheckpoint checkpoint, const ReferenceOptions& options) {
  return Importer(std::move(checkpoint), options).Import();
}

}  // namespace waypoint::models
