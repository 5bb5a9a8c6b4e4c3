#include "models/llama/reference/export_plan.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/json.h"
#include "checkpoint/base/list_error.h"
#include "checkpoint/base/status_macros.h"
#include "google/protobuf/util/message_differencer.h"
#include "models/llama/reference/sidecars.h"

namespace waypoint::models {
namespace {

// Of Meta's ModelArgs.
constexpr int64_t kDefaultMultipleOf = 256;

constexpr double kLlama2Theta = 10000;
constexpr double kMetaScaleFactor = 8;

// The params.json that the model came with.
struct Original {
  std::string text;
  Json document;
  ReferenceParams params;
};

absl::StatusOr<absl::optional<Original>> OriginalOf(const CheckpointMetadata& metadata) {
  const auto& configs = metadata.external_configs();
  const auto text = configs.find(kParamsName);
  if (text == configs.end()) {
    return absl::optional<Original>();
  }
  Original original;
  original.text = text->second;
  constexpr char kWhat[] = "the params.json that the model came with";
  WAYPOINT_ASSIGN_OR_RETURN(original.document, ParseJson(text->second, kWhat, Limits()));
  // What was unknown was let through when it was read.
  auto params = ReadReferenceParams(original.document, /*carry_unknown=*/true);
  if (!params.ok()) {
    return Annotate(params.status(), kWhat);
  }
  original.params = *std::move(params);
  return absl::optional<Original>(std::move(original));
}

// How the files that the model came in were cut.
absl::StatusOr<absl::optional<ReferenceLayout>> LayoutOf(const CheckpointMetadata& metadata) {
  const auto layout = metadata.external_configs().find(kLayoutKey);
  if (layout == metadata.external_configs().end()) {
    return absl::optional<ReferenceLayout>();
  }
  WAYPOINT_ASSIGN_OR_RETURN(const Json json, ParseJson(layout->second, kLayoutKey, Limits()));
  if (!json.is_object() || !json["model_parallel"].is_number_integer() || !json["embedding_dim"].is_number_integer()) {
    return MakeError(ErrorKind::kSchema, absl::StrCat(kLayoutKey, " is ", Quoted(layout->second)));
  }
  return absl::optional<ReferenceLayout>({json["model_parallel"].get<int64_t>(), json["embedding_dim"].get<int>()});
}

class Planner {
 public:
  Planner(const ReferenceOptions& options, absl::optional<Original> original, absl::optional<ReferenceLayout> came_in)
      : options_(options), hints_(options.hints), original_(std::move(original)), came_in_(came_in) {}

  absl::StatusOr<ReferenceExport> Plan(const DecoderConfig& config) {
    WAYPOINT_ASSIGN_OR_RETURN(plan_.facts, FactsOf(config));
    candidates_ = options_.hints.architecture != nullptr
                      ? std::vector<const LlamaArchitecture*>{options_.hints.architecture}
                      : ArchitecturesLike(plan_.facts.shape);
    consumer_ = options_.consumer.value_or(DefaultConsumer());
    ChooseLayout();
    WAYPOINT_RETURN_IF_ERROR(CheckLayout(plan_.facts.shape, plan_.layout));
    const LlamaShape& shape = plan_.facts.shape;
    stored_kv_heads_ = std::max(shape.kv_heads, plan_.layout.files > shape.kv_heads ? plan_.layout.files : 0);
    const int64_t kv_copies = stored_kv_heads_ / shape.kv_heads;
    if (kv_copies > 1) {
      plan_.notes.push_back(absl::StrCat("each of the ", shape.kv_heads, " heads of keys and values is stored ",
                                         kv_copies, " times, one in each of ", plan_.layout.files, " files"));
    }
    plan_.read_back = {{"tied", plan_.facts.tied ? "yes" : "no"}, {"kv-copies", absl::StrCat(kv_copies)}};
    if (Restore()) {
      if (options_.emit_rope_freqs) {
        WAYPOINT_RETURN_IF_ERROR(CheckRopeFreqs(ConsumerOf(original_->params)));
      }
      return std::move(plan_);
    }
    WAYPOINT_RETURN_IF_ERROR(WriteFresh());
    return std::move(plan_);
  }

 private:
  // Does Llama 2 code, which has neither key, compute this rotary embedding?
  bool HasPlainRotary() const { return plan_.facts.theta == kLlama2Theta && plan_.facts.scale_factor == 0; }

  ReferenceConsumer DefaultConsumer() const {
    if (options_.fresh_consumer.has_value()) {
      return *options_.fresh_consumer;
    }
    const ReferenceConsumer before = original_.has_value() ? ConsumerOf(original_->params) : ReferenceConsumer::kLlama2;
    if (before == ReferenceConsumer::kLlama1 || before == ReferenceConsumer::kLlama2) {
      return HasPlainRotary() ? ReferenceConsumer::kLlama2 : ReferenceConsumer::kLlama3;
    }
    // fairseq2's file does not say that frequencies are scaled.
    return plan_.facts.scale_factor > 0 ? ReferenceConsumer::kLlama3 : before;
  }

  void ChooseLayout() {
    plan_.layout = ReferenceLayout();
    if (options_.model_parallel.has_value()) {
      plan_.layout.files = *options_.model_parallel;
    } else if (came_in_.has_value()) {
      plan_.layout.files = came_in_->files;
    } else if (!candidates_.empty() &&
               (options_.hints.architecture != nullptr || candidates_[0]->shape.vocab == plan_.facts.shape.vocab)) {
      // The same for all of a shape.  A vocabulary with more entries may not divide.
      plan_.layout.files = candidates_[0]->model_parallel;
    }
    if (plan_.layout.files == 1) {
      return;
    }
    const bool by_columns =
        consumer_ == ReferenceConsumer::kFairseq2 ? HasPlainRotary() : consumer_ != ReferenceConsumer::kLlama3;
    plan_.layout.embedding_dim = by_columns ? 1 : 0;
    // One file does not tell how it would be cut.  fairseq2 renames, and never cuts anew.
    const bool as_it_came = !options_.consumer.has_value() || consumer_ == ReferenceConsumer::kFairseq2;
    if (came_in_.has_value() && came_in_->files > 1 && as_it_came) {
      plan_.layout.embedding_dim = came_in_->embedding_dim;
    }
  }

  // What reading `params` beside these tensors gives must be the model.
  absl::Status CheckReadsBack(const ReferenceParams& params, const ReferenceHints& hints) const {
    const LlamaShape& shape = plan_.facts.shape;
    ReferenceTensors tensors;
    tensors.dim = shape.dim;
    tensors.layers = shape.layers;
    tensors.vocab = shape.vocab;
    tensors.ffn = shape.ffn;
    tensors.files = plan_.layout.files;
    tensors.key_rows = shape.dim / shape.heads * stored_kv_heads_;
    WAYPOINT_RETURN_IF_ERROR(FindKvHeads(tensors, &params, hints).status());
    WAYPOINT_ASSIGN_OR_RETURN(ReferenceModel model, ResolveReferenceModel(tensors, shape.kv_heads, &params, hints));
    model.config.set_tied_embedding_weight(plan_.facts.tied);
    std::string report;
    google::protobuf::util::MessageDifferencer differencer;
    differencer.ReportDifferencesToString(&report);
    if (!differencer.Compare(ConfigOf(plan_.facts), model.config)) {
      const std::vector<std::string> lines = absl::StrSplit(report, '\n', absl::SkipEmpty());
      return MakeListError(ErrorKind::kUnsupported, "would be read as another model:", lines);
    }
    return absl::OkStatus();
  }

  // Does the original say by itself what the model is?  Whoever reads the copy need not know what the user said of this
  // one, and Meta's code computes the hidden layer from it.
  bool OriginalSuffices(const ReferenceParams& params) const {
    ReferenceHints hints;
    hints.kv_copies = stored_kv_heads_ / plan_.facts.shape.kv_heads;
    hints.fairseq2_errors = options_.hints.fairseq2_errors;
    if (params.use_scaled_rope.value_or(false)) {
      hints.rope_factor = options_.hints.rope_factor;  // no file has a place for it
    }
    const LlamaShape& shape = plan_.facts.shape;
    return FfnSize(shape.dim, params.ffn_dim_multiplier.value_or(1.0),
                   params.multiple_of.value_or(kDefaultMultipleOf)) == shape.ffn &&
           CheckReadsBack(params, hints).ok();
  }

  // True when the original's text serves.
  bool Restore() {
    if (!original_.has_value() || options_.consumer.has_value() || options_.nested.has_value()) {
      return false;
    }
    ReferenceParams params = original_->params;
    const int64_t said = params.n_kv_heads.value_or(params.n_heads.value_or(stored_kv_heads_));
    const bool adapt = said != stored_kv_heads_;
    params.n_kv_heads = adapt ? stored_kv_heads_ : params.n_kv_heads;
    if (!OriginalSuffices(params)) {
      return false;
    }
    if (!adapt) {
      plan_.params_text = original_->text;
      return true;
    }
    Json& values = params.nested ? original_->document["model"] : original_->document;
    values["n_kv_heads"] = stored_kv_heads_;
    plan_.params_text = JsonLine(original_->document);
    return true;
  }

  absl::Status CheckRopeFreqs(ReferenceConsumer consumer) const {
    if (consumer != ReferenceConsumer::kLlama3) {
      return absl::OkStatus();
    }
    return MakeError(ErrorKind::kRequest,
                     "emit-rope-freqs: Llama 3 code refuses files with rope.freqs; leave it out, or choose --consumer "
                     "llama2 for a model that Llama 2 code can run");
  }

  absl::Status WriteFresh() {
    const LlamaShape& shape = plan_.facts.shape;
    WAYPOINT_ASSIGN_OR_RETURN(const FfnParams ffn, FindFfnParams(shape));
    ReferenceParams params;
    params.dim = shape.dim;
    params.n_layers = shape.layers;
    params.n_heads = shape.heads;
    params.n_kv_heads = stored_kv_heads_;
    params.vocab_size = shape.vocab;
    params.multiple_of = ffn.multiple_of;
    params.ffn_dim_multiplier = ffn.multiplier;
    params.norm_eps = plan_.facts.epsilon;
    params.rope_theta = plan_.facts.theta;
    params.use_scaled_rope = plan_.facts.scale_factor > 0;
    const bool was_nested = original_.has_value() && original_->params.nested && !options_.consumer.has_value();
    params.nested = options_.nested.value_or(consumer_ == ReferenceConsumer::kFairseq2 || was_nested);
    WAYPOINT_RETURN_IF_ERROR(CheckConsumer(params));
    if (options_.hints.fairseq2_errors) {
      for (const LlamaArchitecture* candidate : candidates_) {
        params.n_layers = candidate->fairseq2_layers;
      }
    }
    if (consumer_ == ReferenceConsumer::kFairseq2 && params.nested) {
      TakeFairseq2Epsilon(&params);
    }
    plan_.params_text = WriteReferenceParams(params, consumer_);
    Limits limits;
    WAYPOINT_ASSIGN_OR_RETURN(const Json written, ParseJson(plan_.params_text, "params.json", limits));
    WAYPOINT_ASSIGN_OR_RETURN(const ReferenceParams again, ReadReferenceParams(written, /*carry_unknown=*/false));
    return Annotate(CheckReadsBack(again, hints_),
                    absl::StrCat("params.json for ", ConsumerName(consumer_), ", ", plan_.params_text));
  }

  // What fairseq2 writes for its architectures.  It reads no params.json, but others do: they must be told.
  void TakeFairseq2Epsilon(ReferenceParams* params) {
    const double own = plan_.facts.epsilon;
    const bool released =
        std::any_of(candidates_.begin(), candidates_.end(), [own](const LlamaArchitecture* candidate) {
          return candidate->in_fairseq2 && (own == candidate->norm_eps || own == candidate->other_norm_eps);
        });
    if (!released || own == kFairseq2Epsilon) {
      return;
    }
    params->norm_eps = kFairseq2Epsilon;
    hints_.norm_eps = own;
    plan_.read_back["norm-eps"] = JsonLine(own);
    plan_.notes.push_back(absl::StrCat("params.json says norm_eps ", kFairseq2Epsilon,
                                       ", as fairseq2 writes it for every model; this one has ", own,
                                       ": whoever takes norm_eps from the file computes a little differently; "
                                       "--norm-eps ",
                                       own, " reads it as it is, another --consumer writes it"));
  }

  absl::Status CheckConsumer(const ReferenceParams& params) {
    std::vector<std::string> problems;
    const bool old = consumer_ == ReferenceConsumer::kLlama1 || consumer_ == ReferenceConsumer::kLlama2;
    if (consumer_ == ReferenceConsumer::kLlama1 && params.n_kv_heads != params.n_heads) {
      problems.push_back(absl::StrCat("n_kv_heads ", *params.n_kv_heads, " (llama2 can)"));
    }
    if (consumer_ == ReferenceConsumer::kLlama1 && params.ffn_dim_multiplier != 1.0) {
      problems.push_back(absl::StrCat("ffn_dim_multiplier ", *params.ffn_dim_multiplier, " (llama2 can)"));
    }
    if (old && plan_.facts.theta != kLlama2Theta) {
      problems.push_back(absl::StrCat("rope_theta ", plan_.facts.theta, " (llama3 can)"));
    }
    if (old && plan_.facts.scale_factor > 0) {
      problems.push_back("a scaled rotary embedding (llama3 can)");
    }
    if (!old) {
      CheckScaling(&problems);
    }
    if (!problems.empty()) {
      return MakeError(ErrorKind::kUnsupported, absl::StrCat("the consumer ", ConsumerName(consumer_),
                                                             " cannot be told: ", absl::StrJoin(problems, "; ")));
    }
    return options_.emit_rope_freqs ? CheckRopeFreqs(consumer_) : absl::OkStatus();
  }

  void CheckScaling(std::vector<std::string>* problems) {
    const double factor = plan_.facts.scale_factor;
    if (factor == 0) {
      return;
    }
    const auto named =
        std::find_if(candidates_.begin(), candidates_.end(),
                     [factor](const LlamaArchitecture* candidate) { return candidate->scale_factor == factor; });
    if (consumer_ == ReferenceConsumer::kFairseq2) {
      // Its own reader takes the scaling from the architecture's name.
      if (options_.hints.architecture == nullptr || named == candidates_.end()) {
        problems->push_back(
            absl::StrCat("a rotary embedding scaled by ", factor,
                         ", which fairseq2 takes from the architecture's name and params.json ",
                         "does not hold; pass --model with that name",
                         named == candidates_.end() ? std::string() : absl::StrCat(", for example ", (*named)->name)));
      }
      return;
    }
    if (factor == kMetaScaleFactor) {
      return;
    }
    if (named == candidates_.end() && options_.hints.rope_factor != factor) {
      problems->push_back(absl::StrCat("a rotary embedding scaled by ", factor, ": Meta's code scales by ",
                                       kMetaScaleFactor, " whatever the file says; pass --rope-factor ", factor,
                                       " to write it all the same for readers that are told"));
      return;
    }
    plan_.notes.push_back(absl::StrCat("params.json says use_scaled_rope; Meta's code then scales by ",
                                       kMetaScaleFactor, ", this model by ", factor));
  }

  const ReferenceOptions& options_;
  ReferenceHints hints_;  // with which a reader gets the model again
  absl::optional<Original> original_;
  const absl::optional<ReferenceLayout> came_in_;
  std::vector<const LlamaArchitecture*> candidates_;
  ReferenceConsumer consumer_ = ReferenceConsumer::kLlama2;
  int64_t stored_kv_heads_ = 0;
  ReferenceExport plan_;
};

}  // namespace

std::string LayoutText(const ReferenceLayout& layout) {
  Json json = Json::object();
  json["model_parallel"] = layout.files;
  json["embedding_dim"] = layout.embedding_dim;
  return JsonLine(json);
}

absl::StatusOr<ReferenceExport> PlanReferenceExport(const CheckpointMetadata& metadata,
                                                    const ReferenceOptions& options) {
  DecoderConfig config;
  if (!metadata.model_config().UnpackTo(&config)) {
    return MakeError(ErrorKind::kUnsupported, absl::StrCat("the model config is \"", metadata.model_config().type_url(),
                                                           "\", a Llama is made from waypoint.models.DecoderConfig"));
  }
  WAYPOINT_ASSIGN_OR_RETURN(absl::optional<Original> original, OriginalOf(metadata));
  WAYPOINT_ASSIGN_OR_RETURN(const absl::optional<ReferenceLayout> came_in, LayoutOf(metadata));
  return Planner(options, std::move(original), came_in).Plan(config);
}

absl::StatusOr<std::map<std::string, std::vector<CarriedKey>>> FindCarriedParams(const CheckpointMetadata& metadata) {
  std::map<std::string, std::vector<CarriedKey>> keys;
  WAYPOINT_ASSIGN_OR_RETURN(absl::optional<Original> original, OriginalOf(metadata));
  if (original.has_value()) {
    keys[kParamsName] = std::move(original->params.carried);
  }
  return keys;
}

}  // namespace waypoint::models
