#ifndef CHECKPOINT_FORMAT_EXTERNAL_HUGGING_FACE_FAMILY_H_
#define CHECKPOINT_FORMAT_EXTERNAL_HUGGING_FACE_FAMILY_H_

// What a model family tells the Hugging Face format about itself.  A family is this class, a config section and weight
// rules; directories, files, indices and assets are the format's business (hugging_face_format.h).
//
// Thread-safe.

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "checkpoint/base/dtype.h"
#include "checkpoint/base/json.h"
#include "checkpoint/convert/config/carried_key.h"
#include "checkpoint/convert/weights/weight_rules.h"
#include "checkpoint/format/metadata.pb.h"
#include "checkpoint/tensor/manifest.h"
#include "google/protobuf/any.pb.h"

namespace waypoint {

// One model, as far as its config tells.
struct FamilyModel {
  // The native config message.
  google::protobuf::Any config;
  // Native names and shapes; element types do not matter.
  Manifest parameters;
  WeightRules rules;
  std::vector<std::string> notes;
};

class HuggingFaceFamily {
 public:
  virtual ~HuggingFaceFamily() = default;

  // The format's name, for example "llama".
  virtual std::string name() const = 0;
  virtual std::string description() const = 0;
  // By "model_type" or "architectures" of a config.json; cheap.
  virtual bool Recognises(const Json& config) const = 0;

  // config.json -> native.  `tensors_present` is how many tensors the files hold: a config that asks for more layers
  // than that is E_MISSING before anything is made for each layer. Errors: E_CONFIG, E_UNSUPPORTED, E_MISSING.
  virtual absl::StatusOr<FamilyModel> Import(const Json& config, bool carry_unknown, int64_t tensors_present) const = 0;
  // The rules of a native config.  `stored_copies`: copies that an export shall store again.
  // Errors: E_CONFIG or E_UNSUPPORTED when this family cannot express the config.
  virtual absl::StatusOr<FamilyModel> Describe(const google::protobuf::Any& config,
                                               const std::vector<std::string>& stored_copies) const = 0;

  // The keys of a config.json of this family, null ones apart, that the native config does not hold.
  virtual absl::StatusOr<std::vector<CarriedKey>> FindCarriedKeys(const Json& config) const = 0;

  struct ExportOptions {
    // The config.json that the model came from; null for none.
    const Json* original = nullptr;
    // Element type of most weights that are written; what `torch_dtype` says when it was not said before or when the
    // weights were cast since the original described them.
    DType weights_dtype = DType::kInvalid;
    bool weights_were_cast = false;
    // What is set goes before the original.
    ModelFacts facts;
  };
  // Native -> config.json.
  virtual absl::StatusOr<Json> ExportConfig(const google::protobuf::Any& config,
                                            const ExportOptions& options) const = 0;
};

}  // namespace waypoint

#endif  // CHECKPOINT_FORMAT_EXTERNAL_HUGGING_FACE_FAMILY_H_
