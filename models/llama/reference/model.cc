#include "models/llama/reference/model.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/list_error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/convert/config/context.h"
#include "google/protobuf/util/message_differencer.h"
#include "models/decoder/normal_form.h"
#include "models/decoder/parameters.h"

namespace waypoint::models {
namespace {

// Source: meta-llama/llama-models, llama3/model.py, apply_scaling.
constexpr double kScaleFactor = 8;
constexpr double kLowFrequencyFactor = 1;
constexpr double kHighFrequencyFactor = 4;
constexpr int64_t kOriginalContext = 8192;
constexpr int64_t kLlama2Vocabulary = 32000;
constexpr int64_t kLlama3Vocabulary = 128256;
constexpr double kTheta = 10000;
constexpr double kLlama3Theta = 500000;
constexpr double kDefaultEpsilon = 1e-5;

std::string ModelText(const LlamaArchitecture& architecture) { return absl::StrCat("model ", architecture.name); }

// Collects contradictions.
class Resolver {
 public:
  Resolver(const ReferenceTensors& tensors, const ReferenceParams* params, const ReferenceHints& hints)
      : tensors_(tensors), params_(params != nullptr ? *params : ReferenceParams()), hints_(hints) {}

  // params.json, then the model's name; both must agree.
  absl::optional<int64_t> Heads() {
    const LlamaArchitecture* architecture = hints_.architecture;
    if (architecture == nullptr) {
      return params_.n_heads;
    }
    const int64_t heads = architecture->shape.heads;
    if (params_.n_heads.has_value() && *params_.n_heads != heads) {
      Contradiction("n_heads", absl::StrCat(*params_.n_heads, " in params.json"),
                    absl::StrCat(heads, " of ", ModelText(*architecture)));
    }
    return heads;
  }

  absl::StatusOr<StoredKvHeads> KvHeads() {
    const absl::optional<int64_t> heads = Heads();
    if (!heads.has_value()) {
      return MakeError(
          ErrorKind::kConfig,
          absl::StrCat("nothing says how many heads the model has: params.json has no \"n_heads\"; name the ",
                       "model with --model"));
    }
    WAYPOINT_RETURN_IF_ERROR(Status());
    if (tensors_.dim % *heads != 0 || tensors_.dim / *heads % 2 != 0) {
      return MakeError(ErrorKind::kConfig,
                       absl::StrCat("n_heads is ", *heads, ", but dim ", tensors_.dim, " is no even multiple of that"));
    }
    StoredKvHeads kv;
    kv.head_size = tensors_.dim / *heads;
    if (tensors_.key_rows % kv.head_size != 0) {
      return MakeError(ErrorKind::kConfig,
                       absl::StrCat("the keys have ", tensors_.key_rows, " rows, which are no whole heads of ",
                                    kv.head_size, " (dim ", tensors_.dim, " / n_heads ", *heads, ")"));
    }
    kv.stored = tensors_.key_rows / kv.head_size;
    const LlamaArchitecture* architecture = hints_.architecture;
    const int64_t in_params = params_.n_kv_heads.value_or(*heads);
    const int64_t wanted = architecture != nullptr ? architecture->shape.kv_heads : in_params;
    const bool one_per_file = tensors_.files > 1 && kv.stored == tensors_.files;
    const bool repeated = one_per_file && wanted < kv.stored && kv.stored % wanted == 0;
    if (kv.stored != wanted && !repeated) {
      Contradiction("n_kv_heads",
                    absl::StrCat(wanted, architecture != nullptr          ? " of " + ModelText(*architecture)
                                         : params_.n_kv_heads.has_value() ? " in params.json"
                                                                          : " (params.json has none: that of n_heads)"),
                    absl::StrCat(kv.stored, " in the tensors (", tensors_.key_rows, " rows of ", kv.head_size, ")"));
    } else if (params_.n_kv_heads.has_value() && *params_.n_kv_heads != wanted && *params_.n_kv_heads != kv.stored) {
      Contradiction("n_kv_heads", absl::StrCat(*params_.n_kv_heads, " in params.json"),
                    absl::StrCat(kv.stored, " in the tensors"));
    }
    WAYPOINT_RETURN_IF_ERROR(Status());
    kv.copies = repeated ? kv.stored / wanted : one_per_file && architecture == nullptr ? 0 : 1;
    if (hints_.kv_copies.has_value()) {
      const int64_t said = *hints_.kv_copies;
      if (kv.copies != 0 ? said != kv.copies : kv.stored % said != 0) {
        return MakeError(ErrorKind::kConfig,
                         absl::StrCat("kv-copies is ", said, ", but there are ", kv.stored,
                                      " heads of keys and values in ", tensors_.files, " files, ",
                                      kv.copies == 0 ? "no multiple" : absl::StrCat("each ", kv.copies, " times")));
      }
      kv.copies = said;
    }
    return kv;
  }

  absl::StatusOr<ReferenceModel> Model(int64_t kv_heads) {
    LlamaFacts facts;
    facts.shape = {tensors_.dim, tensors_.layers, Heads().value_or(1), kv_heads, tensors_.ffn, tensors_.vocab};
    CheckTensors();
    candidates_ = hints_.architecture != nullptr ? std::vector<const LlamaArchitecture*>{hints_.architecture}
                                                 : ArchitecturesLike(facts.shape);
    ReadTheta(&facts);
    ReadEpsilon(&facts);
    ReadScaling(&facts);
    WAYPOINT_RETURN_IF_ERROR(Status());
    model_.config = ConfigOf(facts);
    model_.max_positions = MaxPositions(facts);
    ChooseTokens(facts);
    WAYPOINT_RETURN_IF_ERROR(ValidateConfig(model_.config));
    return std::move(model_);
  }

 private:
  // Of the kind of the first contradiction.
  absl::Status Status() const {
    return problems_.empty() ? absl::OkStatus()
                             : MakeError(kind_, problems_.ToStatus("the checkpoint contradicts itself").message());
  }

  void Contradiction(absl::string_view key, absl::string_view one, absl::string_view other,
                     ErrorKind kind = ErrorKind::kConfig) {
    kind_ = problems_.empty() ? kind : kind_;
    problems_.Add(kind, absl::StrCat(key, " is ", one, ", ", other));
  }

  void CheckSize(absl::string_view key, const absl::optional<int64_t>& in_params, int64_t of_model, int64_t in_tensors,
                 ErrorKind kind = ErrorKind::kShape) {
    if (in_params.has_value() && *in_params != in_tensors) {
      Contradiction(key, absl::StrCat(*in_params, " in params.json"), absl::StrCat(in_tensors, " in the tensors"),
                    kind);
    }
    if (hints_.architecture != nullptr && of_model != in_tensors) {
      Contradiction(key, absl::StrCat(of_model, " of ", ModelText(*hints_.architecture)),
                    absl::StrCat(in_tensors, " in the tensors"));
    }
  }

  void CheckTensors() {
    const LlamaShape shape = hints_.architecture != nullptr ? hints_.architecture->shape : LlamaShape();
    CheckSize("dim", params_.dim, shape.dim, tensors_.dim);
    const bool made_by_error = hints_.fairseq2_errors && hints_.architecture != nullptr &&
                               hints_.architecture->fairseq2_layers == tensors_.layers;
    const absl::optional<int64_t> layers = IsFairseq2Error() ? absl::nullopt : params_.n_layers;
    CheckSize("n_layers", layers, made_by_error ? tensors_.layers : shape.layers, tensors_.layers,
              layers.value_or(0) > tensors_.layers ? ErrorKind::kMissing : ErrorKind::kExtra);
    CheckSize("vocab_size", params_.vocab_size, tensors_.vocab, tensors_.vocab);
    if (hints_.architecture != nullptr && shape.vocab != tensors_.vocab) {
      model_.notes.push_back(absl::StrCat("the vocabulary has ", tensors_.vocab, " entries, that of ",
                                          ModelText(*hints_.architecture), " ", shape.vocab));
    }
    CheckSize("hidden layer", absl::nullopt, shape.ffn, tensors_.ffn);
    if (params_.multiple_of.has_value() || params_.ffn_dim_multiplier.has_value()) {
      const double multiplier = params_.ffn_dim_multiplier.value_or(1.0);
      const int64_t multiple_of = params_.multiple_of.value_or(256);
      const int64_t ffn = FfnSize(tensors_.dim, multiplier, multiple_of);
      const std::string made =
          absl::StrCat(ffn, " by multiple_of ", multiple_of, " and ffn_dim_multiplier ", multiplier, " of params.json");
      if (ffn != tensors_.ffn && hints_.fairseq2_errors) {
        // Once it wrote a multiplier of 2/3, for the factor that Meta's formula has besides.
        model_.notes.push_back(
            absl::StrCat("hidden layer of ", tensors_.ffn, ", as the tensors have it, and not ", made));
      } else if (ffn != tensors_.ffn) {
        // Meta's code makes the layer from them, and would not load these files.
        Contradiction("the hidden layer", made,
                      absl::StrCat(tensors_.ffn,
                                   " in the tensors (correct the file, or leave it out with "
                                   "--ignore-params --model NAME; --fairseq2-errors believes the tensors)"),
                      ErrorKind::kShape);
      }
    }
  }

  bool IsFairseq2Error() const {
    const std::vector<LlamaArchitecture>& all = LlamaArchitectures();
    return hints_.fairseq2_errors && std::any_of(all.begin(), all.end(), [this](const LlamaArchitecture& architecture) {
             return architecture.shape.dim == tensors_.dim && architecture.shape.layers == tensors_.layers &&
                    architecture.fairseq2_layers == params_.n_layers;
           });
  }

  bool IsLlama3() const {
    return tensors_.vocab == kLlama3Vocabulary || params_.vocab_size.value_or(0) == kLlama3Vocabulary ||
           params_.use_scaled_rope.has_value();
  }

  void ReadTheta(LlamaFacts* facts) {
    const LlamaArchitecture* architecture = hints_.architecture;
    if (params_.rope_theta.has_value()) {
      facts->theta = *params_.rope_theta;
      if (architecture != nullptr && architecture->rope_theta != facts->theta) {
        Contradiction("rope_theta", absl::StrCat(facts->theta, " in params.json"),
                      absl::StrCat(architecture->rope_theta, " of ", ModelText(*architecture)));
      }
    } else if (architecture != nullptr) {
      facts->theta = architecture->rope_theta;
    } else {
      facts->theta = IsLlama3() ? kLlama3Theta : kTheta;
      // Llama 1 and 2 code has no such key.
      if (IsLlama3() || params_.nested || params_.vocab_size.has_value()) {
        model_.notes.push_back(
            absl::StrCat("assumed rope_theta ", facts->theta, ": params.json has none; --model settles it"));
      }
    }
  }

  void ReadEpsilon(LlamaFacts* facts) {
    const LlamaArchitecture* architecture = hints_.architecture;
    if (hints_.norm_eps.has_value() && (!params_.norm_eps.has_value() || HasFairseq2Epsilon(params_))) {
      facts->epsilon = *hints_.norm_eps;
    } else if (params_.norm_eps.has_value()) {
      facts->epsilon = *params_.norm_eps;
      if (hints_.norm_eps.has_value() && facts->epsilon != hints_.norm_eps) {
        Contradiction("norm_eps", absl::StrCat(facts->epsilon, " in params.json"),
                      absl::StrCat(*hints_.norm_eps, " by the option"));
      }
      if (architecture != nullptr && facts->epsilon != architecture->norm_eps &&
          facts->epsilon != architecture->other_norm_eps) {
        Contradiction("norm_eps", absl::StrCat(facts->epsilon, " in params.json"),
                      absl::StrCat(architecture->norm_eps, " of ", ModelText(*architecture)));
      } else if (architecture != nullptr && facts->epsilon != architecture->norm_eps && HasFairseq2Epsilon(params_)) {
        model_.notes.push_back(
            absl::StrCat("took norm_eps ", facts->epsilon, " of params.json, which fairseq2 writes for every model; ",
                         architecture->name, " was released with ", architecture->norm_eps, ": --norm-eps ",
                         architecture->norm_eps, " for weights that fairseq2 did not train"));
      }
    } else if (architecture != nullptr) {
      facts->epsilon = architecture->norm_eps;
    } else {
      facts->epsilon = kDefaultEpsilon;
      model_.notes.push_back(
          absl::StrCat("assumed norm_eps ", facts->epsilon, ": params.json has none; --model settles it"));
    }
  }

  void ReadScaling(LlamaFacts* facts) {
    const LlamaArchitecture* architecture = hints_.architecture;
    const bool of_model = architecture != nullptr && architecture->scale_factor > 0;
    if (architecture != nullptr && params_.use_scaled_rope.has_value() && *params_.use_scaled_rope != of_model) {
      Contradiction("use_scaled_rope", *params_.use_scaled_rope ? "true in params.json" : "false in params.json",
                    absl::StrCat(of_model ? "true" : "false", " of ", ModelText(*architecture)));
      return;
    }
    if (!params_.use_scaled_rope.value_or(of_model || hints_.rope_factor.has_value())) {
      if (!params_.use_scaled_rope.has_value() && architecture == nullptr && tensors_.vocab == kLlama3Vocabulary) {
        model_.notes.push_back(
            "assumed a rotary embedding without scaling: params.json has no use_scaled_rope; Llama 3.1 and later "
            "scale, "
            "and --model says which one this is");
      }
      if (hints_.rope_factor.has_value()) {
        Contradiction("rope-factor", absl::StrCat(*hints_.rope_factor, " by the option"),
                      "use_scaled_rope is false in params.json");
      }
      return;
    }
    facts->scale_factor = kScaleFactor;
    if (hints_.rope_factor.has_value()) {
      facts->scale_factor = *hints_.rope_factor;
      return;
    }
    std::vector<double> factors;
    std::vector<std::string> names;
    for (const LlamaArchitecture* candidate : candidates_) {
      if (candidate->scale_factor > 0) {
        factors.push_back(candidate->scale_factor);
        names.emplace_back(candidate->name);
      }
    }
    // All of a shape agree; Meta's own code computes with 8 always, transformers and the model cards as released.
    if (!factors.empty()) {
      facts->scale_factor = factors[0];
      if (architecture == nullptr) {
        model_.notes.push_back(absl::StrCat("assumed rotary scaling by ", facts->scale_factor,
                                            ", by the shape, which is that of ", absl::StrJoin(names, " and "),
                                            ": params.json does not say by how much"));
      }
    } else {
      model_.notes.push_back(
          absl::StrCat("assumed rotary scaling by ", facts->scale_factor,
                       ", as Meta's code does: params.json does not say by how much; --rope-factor does"));
    }
  }

  int64_t MaxPositions(const LlamaFacts& facts) const {
    int64_t positions = 0;
    for (const LlamaArchitecture* candidate : candidates_) {
      if (candidate->rope_theta == facts.theta && (candidate->scale_factor > 0) == (facts.scale_factor > 0)) {
        positions = std::max(positions, candidate->max_positions);
      }
    }
    if (positions > 0) {
      return positions;
    }
    // transformers, convert_llama_weights_to_hf.py.
    if (facts.scale_factor > 0) {
      return 131072;
    }
    if ((IsLlama3() && facts.theta > kTheta) || facts.theta == kLlama3Theta) {
      return 8192;
    }
    return facts.theta > kTheta ? 16384 : 4096;
  }

  // Source: transformers, convert_llama_weights_to_hf.py; Meta's tokenizers.
  void ChooseTokens(const LlamaFacts& facts) {
    const LlamaArchitecture* architecture = hints_.architecture;
    const double theta = architecture != nullptr ? architecture->rope_theta : facts.theta;
    if (theta == kLlama3Theta || facts.scale_factor > 0 || tensors_.vocab == kLlama3Vocabulary) {
      model_.bos_token = 128000;
      model_.eos_token = 128001;
    } else if (theta == kTheta || tensors_.vocab == kLlama2Vocabulary) {
      model_.bos_token = 1;
      model_.eos_token = 2;
    }
  }

  const ReferenceTensors& tensors_;
  const ReferenceParams params_;
  const ReferenceHints& hints_;
  std::vector<const LlamaArchitecture*> candidates_;
  ReferenceModel model_;
  Problems problems_;
  ErrorKind kind_ = ErrorKind::kConfig;
};

}  // namespace

absl::StatusOr<StoredKvHeads> FindKvHeads(const ReferenceTensors& tensors, const ReferenceParams* params,
                                          const ReferenceHints& hints) {
  return Resolver(tensors, params, hints).KvHeads();
}

absl::StatusOr<ReferenceModel> ResolveReferenceModel(const ReferenceTensors& tensors, int64_t kv_heads,
                                                     const ReferenceParams* params, const ReferenceHints& hints) {
  return Resolver(tensors, params, hints).Model(kv_heads);
}

DecoderConfig ConfigOf(const LlamaFacts& facts) {
  DecoderConfig config;
  config.set_hidden_size(facts.shape.dim);
  config.set_vocab_size(facts.shape.vocab);
  config.set_tied_embedding_weight(facts.tied);
  config.mutable_embeddings()->set_embedding_scale(1);
  config.mutable_decoder()->set_num_blocks(facts.shape.layers);
  Block* block = config.mutable_decoder()->mutable_fixed();
  Attention* attention = block->mutable_mixer()->mutable_attention();
  attention->set_heads(facts.shape.heads);
  attention->set_head_groups(facts.shape.kv_heads);
  attention->set_head_size(facts.shape.dim / facts.shape.heads);
  attention->set_causal(true);
  attention->set_softmax_scale_power(0.5);
  Rotary* rotary = attention->mutable_rotary();
  rotary->set_theta(facts.theta);
  if (facts.scale_factor > 0) {
    Llama3Rotary* scaled = rotary->mutable_llama3();
    scaled->set_scale_factor(facts.scale_factor);
    scaled->set_low_frequency_factor(kLowFrequencyFactor);
    scaled->set_high_frequency_factor(kHighFrequencyFactor);
    scaled->set_original_context_length(kOriginalContext);
  } else {
    rotary->mutable_standard();
  }
  DenseMlp* mlp = block->mutable_mlp()->mutable_dense();
  mlp->set_intermediate_size(facts.shape.ffn);
  mlp->set_gated(true);
  mlp->set_activation(SILU);
  block->mutable_normalization()->set_kind(Normalization::RMS_NORM);
  block->mutable_normalization()->set_epsilon(facts.epsilon);
  *config.mutable_head()->mutable_normalization() = block->normalization();
  config.mutable_head()->set_logits_scale_factor(1);
  config.mutable_head()->set_prediction_heads(1);
  return config;
}

absl::StatusOr<LlamaFacts> FactsOf(const DecoderConfig& config) {
  WAYPOINT_RETURN_IF_ERROR(ValidateConfig(config));
  const DecoderConfig normal = NormalForm(config);
  LlamaFacts facts;
  // What is not there reads as zero and comes out as a difference below.
  const Block& block = normal.decoder().fixed();
  const Attention& attention = block.mixer().attention();
  facts.shape = {
      normal.hidden_size(),    normal.decoder().num_blocks(),           std::max<int64_t>(attention.heads(), 1),
      attention.head_groups(), block.mlp().dense().intermediate_size(), normal.vocab_size()};
  facts.theta = attention.rotary().theta();
  facts.scale_factor = attention.rotary().llama3().scale_factor();
  facts.epsilon = block.normalization().epsilon();
  facts.tied = normal.tied_embedding_weight();
  const DecoderConfig wanted = ConfigOf(facts);
  std::string report;
  google::protobuf::util::MessageDifferencer differencer;
  differencer.ReportDifferencesToString(&report);
  if (!differencer.Compare(normal, wanted)) {
    const std::vector<std::string> lines = absl::StrSplit(report, '\n', absl::SkipEmpty());
    return MakeListError(ErrorKind::kUnsupported,
                         "checkpoints of this format cannot say this (the model -> what the format has):", lines,
                         "use a Hugging Face or the native format for this model");
  }
  return facts;
}

}  // namespace waypoint::models
