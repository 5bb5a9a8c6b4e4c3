#include "models/llama/rope_config.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/types/optional.h"
#include "checkpoint/convert/config/field_path.h"
#include "checkpoint/convert/config/primitives.h"
#include "google/protobuf/util/message_differencer.h"
#include "models/decoder/config.pb.h"

namespace waypoint::models {
namespace {

using google::protobuf::Message;

constexpr char kMaxPositions[] = "max_position_embeddings";
// Defaults of _compute_yarn_parameters.
constexpr double kBetaFast = 32;
constexpr double kBetaSlow = 1;

// One layout's object in the document, read into a Rotary.
class RopeReader {
 public:
  // `object`: "rope_scaling" or "rope_parameters"; theta may be inside only of the latter.
  // `max_positions`: absent when the document's is wrong.
  RopeReader(ImportContext& context, std::string object, bool theta_inside, double default_theta,
             absl::optional<int64_t> max_positions)
      : context_(context),
        object_(std::move(object)),
        theta_inside_(theta_inside),
        default_theta_(default_theta),
        max_positions_(max_positions) {}

  Rotary Read() {
    ReadTheta();
    const Json* parameters = context_.Peek(object_);
    if (parameters == nullptr || (parameters->is_object() && parameters->empty())) {
      context_.Claim(object_);
      rotary_.mutable_standard();
      return rotary_;
    }
    if (!parameters->is_object()) {
      context_.Claim(object_);
      context_.AddProblem(object_, absl::StrCat("is ", JsonText(*parameters), ", wanted an object or null"));
      return rotary_;
    }
    CheckPartial(Key("partial_rotary_factor"));
    ReadType();
    return rotary_;
  }

 private:
  std::string Key(absl::string_view name) const { return absl::StrCat(object_, ".", name); }

  // Reads a key into a field of rotary_; false when it is absent or wrong.
  bool ReadInto(const std::string& key, absl::string_view field, bool required) {
    const Json* value = context_.Find(key);
    if (value == nullptr) {
      if (required) {
        context_.AddProblem(key, "is missing");
      }
      return false;
    }
    const absl::Status status = FieldPath::Resolve(*Rotary::descriptor(), field)->Write(*value, &rotary_);
    if (!status.ok()) {
      context_.AddProblem(key, status);
    }
    return status.ok();
  }

  void ReadTheta() {
    rotary_.set_theta(default_theta_);
    const bool flat = ReadInto("rope_theta", "theta", false);
    const double flat_theta = rotary_.theta();
    if (theta_inside_ && context_.Peek(Key("rope_theta")) != nullptr) {
      ReadInto(Key("rope_theta"), "theta", false);
      if (flat && flat_theta != rotary_.theta()) {
        context_.AddProblem("rope_theta",
                            absl::StrCat("is ", JsonText(*context_.Peek("rope_theta")), ", but \"", Key("rope_theta"),
                                         "\" is ", JsonText(*context_.Peek(Key("rope_theta")))));
      }
    }
    CheckPartial("partial_rotary_factor");
  }

  void CheckPartial(const std::string& key) {
    const Json* value = context_.Find(key);
    if (value == nullptr || (value->is_number() && value->get<double>() == 1.0)) {
      return;
    }
    context_.AddProblem(key, absl::StrCat("is ", JsonText(*value), ", supported is 1.0 only"),
                        value->is_number() ? ErrorKind::kUnsupported : ErrorKind::kConfig);
  }

  void ReadType() {
    const Json* type = context_.Find(Key("rope_type"));
    const Json* legacy = context_.Find(Key("type"));
    if (type != nullptr && legacy != nullptr && *type != *legacy) {
      context_.AddProblem(Key("rope_type"), absl::StrCat("is ", JsonText(*type), ", but \"", Key("type"), "\" is ",
                                                         JsonText(*legacy), "; remove the wrong one"));
      return;
    }
    const Json name = type != nullptr ? *type : legacy != nullptr ? *legacy : Json("default");
    const std::string key = Key(type == nullptr && legacy != nullptr ? "type" : "rope_type");
    if (name == "default") {
      rotary_.mutable_standard();
    } else if (name == "linear") {
      ReadInto(Key("factor"), "linear.scale_factor", true);
    } else if (name == "dynamic") {
      ReadDynamic();
    } else if (name == "llama3") {
      ReadInto(Key("factor"), "llama3.scale_factor", true);
      ReadInto(Key("low_freq_factor"), "llama3.low_frequency_factor", true);
      ReadInto(Key("high_freq_factor"), "llama3.high_frequency_factor", true);
      ReadContextLength("llama3.original_context_length");
    } else if (name == "yarn") {
      ReadYarn();
    } else {
      context_.Claim(object_);  // what the other parameters mean is unknown with the type
      context_.AddProblem(key,
                          absl::StrCat("is ", JsonText(name),
                                       ", supported are \"default\", \"linear\", \"dynamic\", \"llama3\", \"yarn\""),
                          name.is_string() ? ErrorKind::kUnsupported : ErrorKind::kConfig);
    }
  }

  void ReadDynamic() {
    ReadInto(Key("factor"), "dynamic.scale_factor", true);
    if (max_positions_.has_value()) {
      rotary_.mutable_dynamic()->set_original_context_length(*max_positions_);
    }
    // transformers allows it here and computes with max_position_embeddings all the same.
    const Json* ignored = context_.Find(Key("original_max_position_embeddings"));
    if (ignored != nullptr && *ignored != rotary_.dynamic().original_context_length()) {
      context_.AddNote(absl::StrCat("\"", Key("original_max_position_embeddings"), "\" is ", JsonText(*ignored),
                                    ", which dynamic rotary embeddings do not use; they use \"", kMaxPositions, "\""));
    }
  }

  void ReadYarn() {
    YarnRotary* yarn = rotary_.mutable_yarn();
    ReadContextLength("yarn.original_context_length");
    const double ratio =
        max_positions_.has_value() && yarn->original_context_length() > 0
            ? static_cast<double>(*max_positions_) / static_cast<double>(yarn->original_context_length())
            : 0;
    if (context_.Peek(Key("factor")) != nullptr) {
      const bool read = ReadInto(Key("factor"), "yarn.scale_factor", true);
      if (read && ratio > 1 && ratio != yarn->scale_factor()) {
        context_.AddNote(absl::StrCat("\"", Key("factor"), "\" is ", yarn->scale_factor(), ", but \"", kMaxPositions,
                                      "\" over the original length is ", ratio,
                                      "; the factor is used, some versions of transformers use the ratio"));
      }
    } else if (ratio > 0) {
      context_.Claim(Key("factor"));
      yarn->set_scale_factor(ratio);
    }
    ReadInto(Key("attention_factor"), "yarn.attention_factor", false);
    ReadInto(Key("beta_fast"), "yarn.beta_fast", false);
    ReadInto(Key("beta_slow"), "yarn.beta_slow", false);
    if (yarn->beta_fast() == 0) {
      yarn->set_beta_fast(kBetaFast);
    }
    if (yarn->beta_slow() == 0) {
      yarn->set_beta_slow(kBetaSlow);
    }
    ReadInto(Key("mscale"), "yarn.mscale", false);
    ReadInto(Key("mscale_all_dim"), "yarn.mscale_all_dim", false);
    yarn->set_truncate(true);
    ReadInto(Key("truncate"), "yarn.truncate", false);
  }

  void ReadContextLength(absl::string_view field) {
    const std::string key = Key("original_max_position_embeddings");
    if (ReadInto(key, field, false) || context_.Peek(key) != nullptr) {
      return;
    }
    if (max_positions_.has_value()) {
      (void)FieldPath::Resolve(*Rotary::descriptor(), field)->Write(*max_positions_, &rotary_);
    }
  }

  ImportContext& context_;
  const std::string object_;
  const bool theta_inside_;
  const double default_theta_;
  const absl::optional<int64_t> max_positions_;
  Rotary rotary_;
};

// Checked even where no rotary embedding needs it.  Not claimed: it stays in the document whatever the embedding is.
absl::optional<int64_t> ReadMaxPositions(const RopeDefaults& defaults, ImportContext& context) {
  const Json* value = context.Peek(kMaxPositions);
  if (value == nullptr) {
    return defaults.max_position_embeddings;
  }
  Llama3Rotary scratch;
  const absl::Status status =
      FieldPath::Resolve(*Llama3Rotary::descriptor(), "original_context_length")->Write(*value, &scratch);
  if (!status.ok()) {
    context.AddProblem(kMaxPositions, status);
    return absl::nullopt;
  }
  if (scratch.original_context_length() < 1) {
    context.AddProblem(kMaxPositions, absl::StrCat("is ", scratch.original_context_length(), ", must be positive"));
    return absl::nullopt;
  }
  return scratch.original_context_length();
}

void ImportRope(const FieldPath& native, const RopeDefaults& defaults, ImportContext& context, Message* message) {
  const bool has_parameters = context.Peek("rope_parameters") != nullptr;
  const bool has_scaling = context.Peek("rope_scaling") != nullptr;
  context.Claim("rope_theta");
  if (!has_parameters) {
    context.Claim("rope_parameters");
  }
  if (!has_scaling) {
    context.Claim("rope_scaling");
  }
  const absl::optional<int64_t> max_positions = ReadMaxPositions(defaults, context);
  Rotary rotary = RopeReader(context, has_parameters ? "rope_parameters" : "rope_scaling", has_parameters,
                             defaults.theta, max_positions)
                      .Read();
  if (has_parameters && has_scaling) {
    Rotary other = RopeReader(context, "rope_scaling", false, defaults.theta, max_positions).Read();
    // The flat theta may be left out beside rope_parameters.
    if (context.Peek("rope_theta") == nullptr) {
      other.set_theta(rotary.theta());
    }
    if (!google::protobuf::util::MessageDifferencer::Equals(rotary, other)) {
      context.AddProblem("rope_scaling", "and \"rope_parameters\" describe different rotary embeddings");
    }
  }
  absl::StatusOr<Message*> target = native.MutableMessage(message);
  if (!target.ok()) {
    context.AddProblem("rope_parameters", target.status());
    return;
  }
  (*target)->CopyFrom(rotary);
}

// Writes everything but theta and the type below `object`.
void WriteParameters(const Rotary& rotary, const std::string& object, ExportContext& context) {
  const auto set = [&](absl::string_view name, Json value) {
    context.Set(absl::StrCat(object, ".", name), std::move(value));
  };
  switch (rotary.kind_case()) {
    case Rotary::kLinear:
      set("factor", rotary.linear().scale_factor());
      return;
    case Rotary::kDynamic:
      set("factor", rotary.dynamic().scale_factor());
      context.Set(kMaxPositions, rotary.dynamic().original_context_length());
      return;
    case Rotary::kLlama3:
      set("factor", rotary.llama3().scale_factor());
      set("low_freq_factor", rotary.llama3().low_frequency_factor());
      set("high_freq_factor", rotary.llama3().high_frequency_factor());
      set("original_max_position_embeddings", rotary.llama3().original_context_length());
      return;
    case Rotary::kYarn: {
      const YarnRotary& yarn = rotary.yarn();
      set("factor", yarn.scale_factor());
      set("beta_fast", yarn.beta_fast());
      set("beta_slow", yarn.beta_slow());
      set("original_max_position_embeddings", yarn.original_context_length());
      if (yarn.has_attention_factor()) {
        set("attention_factor", yarn.attention_factor());
      }
      if (yarn.has_mscale()) {
        set("mscale", yarn.mscale());
      }
      if (yarn.has_mscale_all_dim()) {
        set("mscale_all_dim", yarn.mscale_all_dim());
      }
      // Older readers do not know the key; true is what they do.
      if (!yarn.truncate()) {
        set("truncate", false);
      }
      return;
    }
    case Rotary::kStandard:
    case Rotary::kNone:
    case Rotary::kProportional:
    case Rotary::KIND_NOT_SET:
      return;
  }
}

const char* TypeName(const Rotary& rotary) {
  switch (rotary.kind_case()) {
    case Rotary::kLinear:
      return "linear";
    case Rotary::kDynamic:
      return "dynamic";
    case Rotary::kLlama3:
      return "llama3";
    case Rotary::kYarn:
      return "yarn";
    default:
      return "default";
  }
}

bool WritesParametersLayout(const ExportContext& context) {
  const Json* parameters = context.Original("rope_parameters");
  if (parameters != nullptr && !parameters->is_null()) {
    return true;
  }
  if (context.Original("rope_theta") != nullptr || context.Original("rope_scaling") != nullptr) {
    return false;
  }
  return parameters != nullptr || context.layout() == ExternalLayout::kTransformers5;
}

void ExportRope(const FieldPath& native, const Message& message, ExportContext& context) {
  Rotary rotary;
  rotary.CopyFrom(native.ReadMessage(message));
  if (rotary.kind_case() == Rotary::kNone || rotary.kind_case() == Rotary::kProportional ||
      rotary.kind_case() == Rotary::KIND_NOT_SET) {
    context.AddProblem(absl::StrCat("native field \"", native.text(), "\" is {", rotary.ShortDebugString(),
                                    "}, the external format has default, linear, dynamic, llama3 and yarn"),
                       ErrorKind::kUnsupported);
    return;
  }
  if (WritesParametersLayout(context)) {
    context.Set("rope_parameters.rope_type", TypeName(rotary));
    context.Set("rope_parameters.rope_theta", rotary.theta());
    WriteParameters(rotary, "rope_parameters", context);
    return;
  }
  context.Set("rope_theta", rotary.theta());
  if (rotary.has_standard()) {
    context.Set("rope_scaling", nullptr);
    return;
  }
  const bool legacy = context.Original("rope_scaling.type") != nullptr;
  if (legacy) {
    context.Set("rope_scaling.type", TypeName(rotary));
  }
  if (!legacy || context.Original("rope_scaling.rope_type") != nullptr) {
    context.Set("rope_scaling.rope_type", TypeName(rotary));
  }
  WriteParameters(rotary, "rope_scaling", context);
}

}  // namespace

PrimitivePtr RopeDeclaration(std::string native, RopeDefaults defaults) {
  // The path is checked when the section is built, so it resolves when the functions run.
  const auto resolve = [native](const Message& message) {
    return FieldPath::Resolve(*message.GetDescriptor(), native).value();
  };
  return Custom(
      {{native, true}}, {"rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor", kMaxPositions},
      [resolve](const Message& message, ExportContext& context) { ExportRope(resolve(message), message, context); },
      [resolve, defaults](ImportContext& context, Message* message) {
        ImportRope(resolve(*message), defaults, context, message);
      });
}

}  // namespace waypoint::models
