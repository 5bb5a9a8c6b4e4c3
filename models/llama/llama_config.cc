#include "models/llama/llama_config.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/convert/config/harmless_keys.h"
#include "checkpoint/convert/config/json_path.h"
#include "models/decoder/normal_form.h"
#include "models/decoder/parameters.h"
#include "models/llama/rope_config.h"

namespace waypoint::models {
namespace {

using google::protobuf::Message;

constexpr char kMaxPositions[] = "max_position_embeddings";
constexpr int64_t kDefaultMaxPositions = 2048;

struct ActivationName {
  const char* external;
  Activation native;
};

// The first name of an activation is the one that is written.
constexpr ActivationName kActivations[] = {
    {"silu", SILU},
    {"swish", SILU},
    {"gelu", GELU},
    {"gelu_python", GELU},
    {"gelu_pytorch_tanh", GELU_TANH},
    {"gelu_new", GELU_TANH},
    {"relu", RELU},
    {"relu2", SQUARED_RELU},
    {"linear", IDENTITY},
    {"sigmoid", SIGMOID},
};

absl::StatusOr<Json> DefaultHeadGroups(const Message& imported) {
  const auto& config = static_cast<const DecoderConfig&>(imported);
  return Json(config.decoder().fixed().mixer().attention().heads());
}

absl::StatusOr<Json> DefaultHeadSize(const Message& imported) {
  const auto& config = static_cast<const DecoderConfig&>(imported);
  const int64_t heads = config.decoder().fixed().mixer().attention().heads();
  if (heads <= 0 || config.hidden_size() % heads != 0) {
    return MakeError(ErrorKind::kConfig, absl::StrCat("is absent, and hidden_size ", config.hidden_size(),
                                                      " is not a multiple of num_attention_heads ", heads));
  }
  return Json(config.hidden_size() / heads);
}

Section BuildLlamaSection() {
  // Sizes that transformers always writes: an absence is worth a note, a null is a mistake.
  DefaultOptions size;
  size.refuse_null = true;
  size.note = true;
  ConstantExportOptions model_type;
  model_type.mismatch = ErrorKind::kUnsupported;
  model_type.required = true;
  ConstantExportOptions architectures;
  architectures.mismatch = ErrorKind::kUnsupported;
  const std::string block = "decoder.fixed";
  const std::string attention = "decoder.fixed.mixer.attention";
  const std::string mlp = "decoder.fixed.mlp.dense";

  SectionBuilder builder(*DecoderConfig::descriptor());
  builder.Add("model_type", ConstantExport("model_type", "llama", model_type))
      .Add("architectures", ConstantExport("architectures", Json::array({"LlamaForCausalLM"}), architectures))
      .Add("quantization_config",
           Refused("quantization_config",
                   "quantized weights are not supported; dequantize the model and save it again without this key"))
      // Class defaults: transformers, models/llama/configuration_llama.py, 4.55 and 5.10 agree.
      .Add("vocab_size", Default("vocab_size", "vocab_size", 32000, size))
      .Add("hidden_size", Default("hidden_size", "hidden_size", 4096, size))
      .Add("intermediate_size", Default(mlp + ".intermediate_size", "intermediate_size", 11008, size))
      .Add("num_hidden_layers", Default("decoder.num_blocks", "num_hidden_layers", 32, size))
      .Add("num_attention_heads", Default(attention + ".heads", "num_attention_heads", 32, size))
      .Add("num_key_value_heads", Default(attention + ".head_groups", "num_key_value_heads", DefaultHeadGroups))
      .Add("head_dim", Default(attention + ".head_size", "head_dim", DefaultHeadSize))
      .Add("hidden_act", Default(mlp + ".activation", "hidden_act", "silu", TransformersActivation()))
      // One key for the norms of the blocks and of the head.
      .Add("rms_norm_eps", Default(block + ".normalization.epsilon", "rms_norm_eps", 1e-6))
      .Add("rms_norm_eps.head", Default("head.normalization.epsilon", "rms_norm_eps", 1e-6))
      .Add("tie_word_embeddings", Default("tied_embedding_weight", "tie_word_embeddings", false))
      .Add("attention_bias", Default(attention + ".add_linear_biases", "attention_bias", false))
      .Add("mlp_bias", Default(mlp + ".add_linear_biases", "mlp_bias", false))
      .Add("attention_dropout", Default(attention + ".dropout", "attention_dropout", 0.0))
      .Add("rope", RopeDeclaration(attention + ".rotary", {10000.0, kDefaultMaxPositions}));

  // What every Llama is, without a key that says so.
  builder.Add("embedding_scale", ConstantImport("embeddings.embedding_scale", 1.0))
      .Add("num_position_embeddings", ConstantImport("embeddings.num_position_embeddings", nullptr))
      .Add("decoder.pattern", ConstantImport("decoder.pattern", nullptr))
      .Add("normalization.kind", ConstantImport(block + ".normalization.kind", "RMS_NORM"))
      .Add("normalization.zero_centered", ConstantImport(block + ".normalization.zero_centered", false))
      .Add("pre_mixer_normalization", ConstantImport(block + ".pre_mixer_normalization", nullptr))
      .Add("pre_mlp_normalization", ConstantImport(block + ".pre_mlp_normalization", nullptr))
      .Add("post_mixer_normalization", ConstantImport(block + ".post_mixer_normalization", nullptr))
      .Add("post_mlp_normalization", ConstantImport(block + ".post_mlp_normalization", nullptr))
      .Add("output_scale", ConstantImport(block + ".output_scale", false))
      .Add("dropout", ConstantImport(block + ".dropout", 0.0))
      .Add("mixer.stochastic", ConstantImport(block + ".mixer.stochastic", nullptr))
      .Add("query_bias", ConstantImport(attention + ".query_bias", nullptr))
      .Add("key_bias", ConstantImport(attention + ".key_bias", nullptr))
      .Add("value_bias", ConstantImport(attention + ".value_bias", nullptr))
      .Add("dense_bias", ConstantImport(attention + ".dense_bias", nullptr))
      .Add("causal", ConstantImport(attention + ".causal", true))
      .Add("softmax_scale_power", ConstantImport(attention + ".softmax_scale_power", 0.5))
      .Add("window_size", ConstantImport(attention + ".window_size", nullptr))
      .Add("query_norm", ConstantImport(attention + ".query_norm", nullptr))
      .Add("key_norm", ConstantImport(attention + ".key_norm", nullptr))
      .Add("value_norm", ConstantImport(attention + ".value_norm", nullptr))
      .Add("shared_key_value", ConstantImport(attention + ".shared_key_value", false))
      .Add("mlp.moe", ConstantImport(block + ".mlp.moe", nullptr))
      .Add("gated", ConstantImport(mlp + ".gated", true))
      .Add("layer_1_bias", ConstantImport(mlp + ".layer_1_bias", nullptr))
      .Add("layer_2_bias", ConstantImport(mlp + ".layer_2_bias", nullptr))
      .Add("mlp.pre_norm", ConstantImport(mlp + ".pre_norm", nullptr))
      .Add("mlp.post_norm", ConstantImport(mlp + ".post_norm", nullptr))
      .Add("head.normalization.kind", ConstantImport("head.normalization.kind", "RMS_NORM"))
      .Add("head.normalization.zero_centered", ConstantImport("head.normalization.zero_centered", false))
      .Add("final_logit_softcap", ConstantImport("head.final_logit_softcap", nullptr))
      .Add("logits_scale_factor", ConstantImport("head.logits_scale_factor", 1.0))
      .Add("prediction_heads", ConstantImport("head.prediction_heads", 1));
  // Build fails only for a wrong declaration, which every test of this file would show.
  return builder.Build().value();
}

const ConfigConverter& Converter() {
  static const auto* converter = new ConfigConverter(LlamaSection(), HarmlessKeys().Add("", TransformersRootKeys()));
  return *converter;
}

// The length that a model with this rotary embedding was made for.
int64_t MaxPositionsOf(const Rotary& rotary) {
  double length = static_cast<double>(kDefaultMaxPositions);
  if (rotary.has_llama3()) {
    length = static_cast<double>(rotary.llama3().original_context_length()) * rotary.llama3().scale_factor();
  } else if (rotary.has_yarn()) {
    length = static_cast<double>(rotary.yarn().original_context_length()) * rotary.yarn().scale_factor();
  } else if (rotary.has_dynamic()) {
    return rotary.dynamic().original_context_length();
  }
  // Exact as a double, so that every reader gets the same number.
  constexpr double kLongest = 9007199254740992.0;
  return static_cast<int64_t>(std::llround(std::clamp(length, 1.0, kLongest)));
}

// What max_position_embeddings shall say; empty: what it said, or the default.
absl::optional<int64_t> MaxPositionsBy(const ExportConfigOptions& options, const Rotary& rotary, const Json* original) {
  if (options.max_position_embeddings.has_value()) {
    return options.max_position_embeddings;
  }
  const ModelFacts& facts = options.facts;
  if (rotary.has_dynamic() || (facts.max_position_embeddings() == 0 && facts.trained_positions() == 0)) {
    return absl::nullopt;
  }
  int64_t said = facts.max_position_embeddings();
  const Json* before = original == nullptr ? nullptr : FindJson(*original, {kMaxPositions});
  if (said == 0 && before != nullptr && before->is_number_integer()) {
    said = before->get<int64_t>();
  } else if (said == 0) {
    said = MaxPositionsOf(rotary);
  }
  return std::max(said, facts.trained_positions());
}

void SetTokens(const ModelFacts& facts, Json* document) {
  if (facts.has_bos_token_id()) {
    (*document)["bos_token_id"] = facts.bos_token_id();
  }
  if (facts.eos_token_id_size() == 1) {
    (*document)["eos_token_id"] = facts.eos_token_id(0);
  } else if (facts.eos_token_id_size() > 1) {
    (*document)["eos_token_id"] = std::vector<int64_t>(facts.eos_token_id().begin(), facts.eos_token_id().end());
  }
  if (facts.has_pad_token_id()) {
    (*document)["pad_token_id"] = facts.pad_token_id();
  }
}

// transformers writes config.json with sorted keys, nested ones included.
Json Sorted(const Json& value) {
  if (!value.is_object()) {
    return value;
  }
  std::vector<std::string> keys;
  for (auto it = value.begin(); it != value.end(); ++it) {
    keys.push_back(it.key());
  }
  std::sort(keys.begin(), keys.end());
  Json sorted = Json::object();
  for (const std::string& key : keys) {
    sorted[key] = Sorted(value[key]);
  }
  return sorted;
}

void SetWeightsDtype(const std::string& dtype, Json* document) {
  bool written = false;
  for (const char* key : {"torch_dtype", "dtype"}) {
    if (document->contains(key)) {
      (*document)[key] = dtype;
      written = true;
    }
  }
  if (!written) {
    (*document)[document->contains("rope_parameters") ? "dtype" : "torch_dtype"] = dtype;
  }
}

}  // namespace

Codec TransformersActivation() {
  Codec codec;
  codec.to_native = [](const Json& external) -> absl::StatusOr<Json> {
    std::vector<std::string> names;
    for (const ActivationName& row : kActivations) {
      if (external == row.external) {
        return Json(Activation_Name(row.native));
      }
      names.push_back(absl::StrCat("\"", row.external, "\""));
    }
    return MakeError(ErrorKind::kConfig,
                     absl::StrCat("is ", JsonText(external), ", wanted one of ", absl::StrJoin(names, ", ")));
  };
  codec.to_external = [](const Json& native) -> absl::StatusOr<Json> {
    for (const ActivationName& row : kActivations) {
      if (native == Activation_Name(row.native)) {
        return Json(row.external);
      }
    }
    return MakeError(ErrorKind::kConfig, absl::StrCat("is ", JsonText(native), ", which has no name in transformers"));
  };
  return codec;
}

const Section& LlamaSection() {
  static const auto* section = new Section(BuildLlamaSection());
  return *section;
}

absl::StatusOr<ImportedConfig> ImportLlamaConfig(const Json& config, bool carry_unknown) {
  ImportedConfig imported;
  ConfigImportOptions options;
  options.carry_unknown = carry_unknown;
  WAYPOINT_ASSIGN_OR_RETURN(ImportReport report, Converter().Import(config, options, &imported.config));
  WAYPOINT_RETURN_IF_ERROR(Converter().NameExternalKeys(ValidateConfig(imported.config)));
  imported.notes = std::move(report.notes);
  imported.carried = std::move(report.carried);
  return imported;
}

absl::StatusOr<Json> ExportLlamaConfig(const DecoderConfig& config, const Json* original,
                                       const ExportConfigOptions& options) {
  if (options.max_position_embeddings.has_value() && *options.max_position_embeddings < 1) {
    return MakeError(ErrorKind::kRequest, absl::StrCat("max_position_embeddings is ", *options.max_position_embeddings,
                                                       ", wanted a positive number"));
  }
  std::string dtype;
  if (options.weights_dtype.has_value()) {
    dtype = std::string(DTypeTorchName(*options.weights_dtype));
    if (dtype.empty()) {
      return MakeError(ErrorKind::kRequest, absl::StrCat("weights of type ", DTypeName(*options.weights_dtype),
                                                         " have no name in a config.json"));
    }
  }
  WAYPOINT_RETURN_IF_ERROR(ValidateConfig(config));
  const DecoderConfig normal = NormalForm(config);
  if (normal.decoder().has_pattern()) {
    // Said at once: every declaration of the one block would complain of its absence.
    return MakeError(
        ErrorKind::kConfig,
        absl::StrCat("config cannot be exported: the ", normal.decoder().pattern().blocks_size(),
                     " blocks of \"decoder.pattern\" differ, and Llama has the same block at every layer"));
  }

  // The length goes in before the conversion: some rotary embeddings depend on it.
  const Rotary& rotary = normal.decoder().fixed().mixer().attention().rotary();
  const absl::optional<int64_t> max_positions = MaxPositionsBy(options, rotary, original);
  Json base = original != nullptr ? *original : Json::object();
  if (max_positions.has_value() && base.is_object()) {
    base[kMaxPositions] = *max_positions;
  }
  ConfigExportOptions export_options;
  export_options.layout = options.layout;
  WAYPOINT_ASSIGN_OR_RETURN(Json document,
                            Converter().Export(normal, original != nullptr ? &base : nullptr, export_options));
  if (original == nullptr && !document.contains(kMaxPositions)) {
    document[kMaxPositions] = max_positions.value_or(MaxPositionsOf(rotary));
  }
  SetTokens(options.facts, &document);
  if (!dtype.empty()) {
    SetWeightsDtype(dtype, &document);
  }
  return original == nullptr ? Sorted(document) : document;
}

}  // namespace waypoint::models
