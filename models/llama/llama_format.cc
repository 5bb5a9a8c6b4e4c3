#include "models/llama/llama_format.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/format/external/hugging_face_format.h"
#include "models/decoder/config.pb.h"
#include "models/decoder/parameters.h"
#include "models/llama/llama_config.h"
#include "models/llama/llama_weights.h"

namespace waypoint::models {
namespace {

absl::StatusOr<DecoderConfig> Unpack(const google::protobuf::Any& any) {
  DecoderConfig config;
  if (!any.UnpackTo(&config)) {
    return MakeError(ErrorKind::kUnsupported, absl::StrCat("the model config is \"", any.type_url(),
                                                           "\", a Llama is made from waypoint.models.DecoderConfig"));
  }
  return config;
}

class LlamaFamily : public HuggingFaceFamily {
 public:
  std::string name() const override { return "llama"; }
  std::string description() const override { return "Hugging Face directory of LlamaForCausalLM (Llama 1 to 3.x)"; }

  bool Recognises(const Json& config) const override {
    const auto type = config.find("model_type");
    return type != config.end() && type->is_string() && type->get_ref<const std::string&>() == "llama";
  }

  absl::StatusOr<FamilyModel> Import(const Json& config, bool carry_unknown, int64_t tensors_present) const override {
    WAYPOINT_ASSIGN_OR_RETURN(ImportedConfig imported, ImportLlamaConfig(config, carry_unknown));
    const int64_t layers = imported.config.decoder().num_blocks();
    if (layers > tensors_present) {
      return MakeError(ErrorKind::kMissing, absl::StrCat("num_hidden_layers is ", layers, ", but the files hold only ",
                                                         tensors_present, " tensors"));
    }
    WAYPOINT_ASSIGN_OR_RETURN(FamilyModel model, Model(imported.config, {}));
    model.notes = std::move(imported.notes);
    return model;
  }

  absl::StatusOr<FamilyModel> Describe(const google::protobuf::Any& any,
                                       const std::vector<std::string>& stored_copies) const override {
    WAYPOINT_ASSIGN_OR_RETURN(const DecoderConfig config, Unpack(any));
    return Model(config, stored_copies);
  }

  absl::StatusOr<std::vector<CarriedKey>> FindCarriedKeys(const Json& config) const override {
    WAYPOINT_ASSIGN_OR_RETURN(ImportedConfig imported, ImportLlamaConfig(config, /*carry_unknown=*/true));
    return std::move(imported.carried);
  }

  absl::StatusOr<Json> ExportConfig(const google::protobuf::Any& any, const ExportOptions& options) const override {
    WAYPOINT_ASSIGN_OR_RETURN(const DecoderConfig config, Unpack(any));
    ExportConfigOptions export_options;
    if (options.original == nullptr || options.weights_were_cast) {
      export_options.weights_dtype = options.weights_dtype;
    }
    export_options.facts = options.facts;
    return ExportLlamaConfig(config, options.original, export_options);
  }

 private:
  static absl::StatusOr<FamilyModel> Model(const DecoderConfig& config, const std::vector<std::string>& stored_copies) {
    FamilyModel model;
    // Element types of parameters do not matter to a plan.
    WAYPOINT_ASSIGN_OR_RETURN(model.parameters, ParameterManifest(config, DType::kF32));
    WAYPOINT_ASSIGN_OR_RETURN(model.rules, LlamaWeightRules(config, stored_copies));
    model.config.PackFrom(config);
    return model;
  }
};

}  // namespace

std::unique_ptr<CheckpointFormat> NewLlamaFormat() { return NewHuggingFaceFormat(std::make_unique<LlamaFamily>()); }

}  // namespace waypoint::models
