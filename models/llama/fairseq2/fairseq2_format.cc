#include "models/llama/fairseq2/fairseq2_format.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "checkpoint/base/catch_allocation.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/container/torch_zip/torch_source.h"
#include "checkpoint/format/format_options.h"
#include "checkpoint/format/own_files.h"
#include "checkpoint/format/shared/shared_write.h"
#include "checkpoint/format/strip_prefix.h"
#include "models/llama/fairseq2/directory.h"
#include "models/llama/fairseq2/names.h"
#include "models/llama/fairseq2/pieces.h"
#include "models/llama/reference/export_plan.h"
#include "models/llama/reference/import_shards.h"
#include "models/llama/reference/options.h"
#include "models/llama/reference/shard_writer.h"

namespace waypoint::models {
namespace {

// Those of the reference format that mean something here.
std::vector<FormatOption> Options() {
  std::vector<FormatOption> options;
  for (FormatOption& option : ReferenceFormatOptions()) {
    if (option.name != "consumer" && option.name != "params-layout" && option.name != "emit-rope-freqs") {
      options.push_back(std::move(option));
    }
  }
  return options;
}

bool SharesOutput(const std::vector<Fairseq2File>& files, const Fairseq2Grid& grid) {
  return grid.num_files() == grid.tensor_parallel &&
         std::all_of(files.begin(), files.end(), [](const Fairseq2File& file) {
           return ShareStorage(file.contents, absl::StrCat(file.prefix, kFairseq2Names.output),
                               absl::StrCat(file.prefix, kFairseq2Names.embedding));
         });
}

// Nothing but the weights is there: tells what is missing, and who it could be.
absl::Status NothingSaysTheModel(bool ignored, const Manifest& tensors, const ShardSet& set) {
  std::vector<std::string> all;
  std::vector<std::string> fitting;
  const absl::StatusOr<ShardedTensors> shards = ReadShards(tensors, set);
  WAYPOINT_RETURN_IF_ERROR(shards.status());
  const ReferenceTensors& found = shards->tensors;
  for (const LlamaArchitecture& architecture : LlamaArchitectures()) {
    const LlamaShape& shape = architecture.shape;
    all.emplace_back(architecture.name);
    if (shape.dim == found.dim && shape.layers == found.layers && shape.ffn == found.ffn &&
        shape.vocab == found.vocab && shape.dim / shape.heads * shape.kv_heads == found.key_rows) {
      fitting.emplace_back(architecture.name);
    }
  }
  return MakeError(
      ErrorKind::kMissing,
      absl::StrCat(
          ignored ? "params.json is not read" : "there is no params.json",
          ", and fairseq2 keeps no config beside the weights: nothing says the number of heads, rope_theta and the "
          "rotary scaling; name the model with --model (",
          absl::StrJoin(all, ", "), ") or put a params.json beside it; of this shape is ",
          fitting.empty() ? "none of them" : absl::StrJoin(fitting, ", "), " (dim ", found.dim, ", ", found.layers,
          " layers, hidden layer ", found.ffn, ", vocabulary ", found.vocab, ")"));
}

class Opener {
 public:
  Opener(const LoadOptions& options, ReferenceOptions reference)
      : options_(options), reference_(std::move(reference)) {}

  absl::StatusOr<OpenedCheckpoint> Open(FileSystem& fs, Fairseq2Directory directory) {
    ShardedCheckpoint checkpoint;
    Sidecars& sidecars = directory.sidecars;
    const bool believed = sidecars.params.has_value() && !reference_.ignore_params;
    if (believed) {
      auto params = ReadReferenceParams(*sidecars.params, options_.carry_unknown);
      if (!params.ok()) {
        return Annotate(params.status(), kParamsName);
      }
      notes_.insert(notes_.end(), params->notes.begin(), params->notes.end());
      checkpoint.params = *std::move(params);
    }
    checkpoint.set = Fairseq2Shards(directory.files, directory.grid);
    checkpoint.shared_output = SharesOutput(directory.files, directory.grid);
    const std::string remedy = UnwrapRemedy(directory.files[0].contents, kFairseq2Names, directory.files[0].prefix);
    WAYPOINT_ASSIGN_OR_RETURN(JoinedPieces joined, Join(fs, &directory, checkpoint.set));
    if (!believed && reference_.hints.architecture == nullptr) {
      return WithRemedy(NothingSaysTheModel(sidecars.params.has_value(), joined.tensors->manifest(), checkpoint.set),
                        remedy);
    }
    WAYPOINT_RETURN_IF_ERROR(ChooseEpsilon(checkpoint.params));
    ChooseTied(joined.tensors->manifest(), checkpoint.set);
    checkpoint.files = std::move(joined.tensors);

    auto imported = ImportShards(std::move(checkpoint), reference_);
    if (!imported.ok()) {
      const absl::Status status = WithRemedy(imported.status(), remedy);
      return directory.grid.pieces == 1 ? status
                                        : Annotate(status, absl::StrCat("joined from ", directory.grid.pieces,
                                                                        " sdp files for each rank, if there were no "
                                                                        "more"));
    }
    OpenedCheckpoint opened = *std::move(imported);
    opened.metadata.set_external_format("fairseq2");
    if (believed) {
      (*opened.metadata.mutable_external_configs())[kParamsName] = std::move(sidecars.params_text);
    }
    opened.assets = std::move(sidecars.assets);
    opened.listed = std::move(sidecars.listed);
    opened.files = std::move(sidecars.files);
    for (Fairseq2File& file : directory.files) {
      opened.files.push_back(std::move(file.described));
    }
    for (std::vector<std::string>* notes : {&notes_, &joined.notes, &directory.notes}) {
      opened.notes.insert(opened.notes.begin(), notes->begin(), notes->end());
    }
    return opened;
  }

 private:
  absl::StatusOr<JoinedPieces> Join(FileSystem& fs, Fairseq2Directory* directory, const ShardSet& set) {
    TorchSourceOptions source_options;
    source_options.reader.window_bytes = options_.window_bytes;
    source_options.reader.gap_bytes = options_.gap_bytes;
    source_options.reader.max_over_read = options_.max_over_read;
    source_options.verify = options_.verify_digests;
    source_options.verify_whole = options_.verify_whole_records;
    source_options.limits = options_.limits;
    std::vector<TorchContents> contents;
    for (Fairseq2File& file : directory->files) {
      contents.push_back(std::move(file.contents));
      source_options.recorders.push_back(file.described.recorder);
    }
    WAYPOINT_ASSIGN_OR_RETURN(auto source, TorchSource::Create(fs, std::move(contents), source_options));
    return JoinPieces(std::move(source), directory->files, directory->grid, set);
  }

  absl::Status ChooseEpsilon(const absl::optional<ReferenceParams>& params) {
    absl::optional<double>& epsilon = reference_.hints.norm_eps;
    if (params.has_value() && params->norm_eps.has_value()) {
      if (epsilon.has_value() && epsilon != params->norm_eps && !HasFairseq2Epsilon(*params)) {
        return MakeError(ErrorKind::kConfig,
                         absl::StrCat("norm-eps is ", *epsilon, ", params.json says ", *params->norm_eps,
                                      "; leave one of them out (--ignore-params)"));
      }
      return absl::OkStatus();
    }
    if (epsilon.has_value()) {
      return absl::OkStatus();
    }
    epsilon = kFairseq2Epsilon;
    const LlamaArchitecture* architecture = reference_.hints.architecture;
    if (architecture != nullptr && architecture->norm_eps != kFairseq2Epsilon) {
      notes_.push_back(absl::StrCat("took norm_eps ", kFairseq2Epsilon, ", with which fairseq2 computes every model; ",
                                    architecture->name, " was released with ", architecture->norm_eps, ": --norm-eps ",
                                    architecture->norm_eps, " for weights that fairseq2 did not train"));
    }
    return absl::OkStatus();
  }

  // A tied model has no tensor for its output, or the same in it.
  void ChooseTied(const Manifest& tensors, const ShardSet& set) {
    const LlamaArchitecture* architecture = reference_.hints.architecture;
    const bool absent = tensors.Find(absl::StrCat(set.files[0].prefix, kFairseq2Names.output)) < 0;
    if (absent && !reference_.tied.has_value() && architecture != nullptr && architecture->tied) {
      reference_.tied = true;
    }
  }

  const LoadOptions& options_;
  ReferenceOptions reference_;
  std::vector<std::string> notes_;
};

// Which architecture of fairseq2 computes the model.
std::string LoadableAs(const LlamaFacts& facts) {
  std::vector<std::string> names;
  for (const LlamaArchitecture* architecture : ArchitecturesOfShape(facts.shape)) {
    if (architecture->in_fairseq2 && architecture->fairseq2_layers == facts.shape.layers &&
        architecture->rope_theta == facts.theta && architecture->scale_factor == facts.scale_factor) {
      names.emplace_back(architecture->name);
    }
  }
  if (names.empty()) {
    return "no architecture of fairseq2 is this model; it needs one with these sizes to load the file";
  }
  return absl::StrCat("fairseq2 loads the file as ", absl::StrJoin(names, " or "));
}

absl::StatusOr<std::unique_ptr<CheckpointWriter>> Write(FileSystem& fs, const std::string& directory,
                                                        const CheckpointMetadata& metadata,
                                                        std::unique_ptr<SharedWrite> together, TensorSource& state,
                                                        const std::vector<Asset>& assets, const SaveOptions& options) {
  WAYPOINT_ASSIGN_OR_RETURN(ReferenceOptions reference, ParseReferenceOptions(options.format_options));
  reference.model_parallel = reference.model_parallel.value_or(1);
  // params.json is for us and others; fairseq2 reads none.  Of its dialects this says most.
  reference.fresh_consumer = ReferenceConsumer::kLlama3;
  WAYPOINT_ASSIGN_OR_RETURN(ReferenceExport plan, PlanReferenceExport(metadata, reference));
  plan.notes.push_back(LoadableAs(plan.facts));
  if (plan.facts.epsilon != kFairseq2Epsilon) {
    plan.notes.push_back(
        absl::StrCat("the model has norm_eps ", plan.facts.epsilon, ", fairseq2 computes with ", kFairseq2Epsilon));
  }
  // As it cuts them itself, and as Meta's code of the same generation does.
  plan.layout.embedding_dim =
      plan.layout.files > 1 && plan.facts.theta == 10000 && plan.facts.scale_factor == 0 ? 1 : 0;
  WAYPOINT_RETURN_IF_ERROR(CheckLayout(plan.facts.shape, plan.layout));
  if (plan.layout.files > plan.facts.shape.kv_heads) {
    return MakeError(ErrorKind::kRequest, absl::StrCat("model-parallel is ", plan.layout.files, ", but there are ",
                                                       plan.facts.shape.kv_heads,
                                                       " heads of keys and values, and fairseq2 does not repeat them"));
  }
  ShardStyle style;
  style.set.names = &kFairseq2Names;
  for (int64_t file = 0; file < plan.layout.files; ++file) {
    const std::string name = plan.layout.files == 1 ? "model" : absl::StrCat("model.", file);
    style.set.files.push_back({absl::StrCat(name, ".pt"), absl::StrCat(name, "/")});
  }
  style.wrapper = {"model", {{"model_key", "model"}}, {"fs2"}};
  return ShardWriter::Create(fs, directory, std::move(plan), std::move(style), std::move(together), state, assets,
                             options);
}

class Fairseq2Format : public CheckpointFormat {
 public:
  std::string name() const override { return "fairseq2"; }
  std::string description() const override {
    return "Llama checkpoints of fairseq2: model.pt, model.N.pt and trees of pp_NN/tp_NN/sdp_NN.pt";
  }
  bool external() const override { return true; }
  bool supports_optimizer_state() const override { return false; }
  bool written_by_many_ranks() const override { return true; }
  std::vector<FormatOption> options() const override { return Options(); }

  absl::StatusOr<bool> Probe(FileSystem& fs, const std::string& directory) override {
    return LooksLikeFairseq2(fs, directory);
  }

  absl::StatusOr<std::vector<std::string>> OwnFiles(FileSystem& fs, const std::string& directory) const override {
    return FilesNamedLike(fs, directory,
                          [](absl::string_view name) { return name == kParamsName || IsFairseq2File(name); });
  }

  absl::StatusOr<std::map<std::string, std::vector<CarriedKey>>> FindCarriedKeys(
      const CheckpointMetadata& metadata) const override {
    return FindCarriedParams(metadata);
  }

  absl::StatusOr<OpenedCheckpoint> Open(FileSystem& fs, const std::string& directory,
                                        const LoadOptions& options) override {
    return CatchAllocation("what a checkpoint says of itself", "free memory, or allow more (ulimit -v)",
                           [&] { return OpenThrowing(fs, directory, options); });
  }

  absl::StatusOr<OpenedCheckpoint> OpenThrowing(FileSystem& fs, const std::string& directory,
                                                const LoadOptions& options) {
    WAYPOINT_RETURN_IF_ERROR(CheckFormatOptions(*this, options.format_options, FormatUse::kLoad));
    WAYPOINT_ASSIGN_OR_RETURN(ReferenceOptions reference, ParseReferenceOptions(options.format_options));
    WAYPOINT_ASSIGN_OR_RETURN(Fairseq2Directory files, ReadFairseq2Directory(fs, directory, options));
    auto opened = Opener(options, std::move(reference)).Open(fs, std::move(files));
    if (!opened.ok()) {
      return Annotate(opened.status(), QuotedPath(directory));
    }
    return opened;
  }

  absl::StatusOr<std::unique_ptr<CheckpointWriter>> Create(FileSystem& fs, const std::string& directory,
                                                           const CheckpointMetadata& metadata, TensorSource& rank_state,
                                                           const std::vector<Asset>& assets,
                                                           const SaveOptions& options) override {
    // First, so that ranks do not miss each other over what is wrong on one of them alone.
    WAYPOINT_ASSIGN_OR_RETURN(std::unique_ptr<SharedWrite> together, NewSharedWrite(rank_state, options));
    TensorSource& state = together == nullptr ? rank_state : together->state();
    WAYPOINT_RETURN_IF_ERROR(CheckFormatOptions(*this, options.format_options, FormatUse::kSave));
    return Write(fs, directory, metadata, std::move(together), state, assets, options);
  }
};

}  // namespace

std::unique_ptr<CheckpointFormat> NewFairseq2Format() { return std::make_unique<Fairseq2Format>(); }

}  // namespace waypoint::models
