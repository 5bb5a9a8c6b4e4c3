#include "models/llama/reference/params.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "checkpoint/base/error.h"
#include "checkpoint/convert/config/context.h"
#include "checkpoint/convert/config/json_path.h"

namespace waypoint::models {
namespace {

constexpr absl::string_view kRuntimeKeys[] = {"max_seq_len", "max_batch_size"};
constexpr char kRuntime[] = "of the process that runs the model, not of the model";

struct RefusedKey {
  absl::string_view prefix;
  absl::string_view reason;
};
// Source: meta-llama/llama-models, ModelArgs of Llama 3 and 4.
constexpr RefusedKey kRefusedKeys[] = {
    {"vision_", "a model with a vision encoder"},
    {"quantization_args", "quantized weights"},
    {"lora_args", "adapter weights"},
    {"moe_args", "a mixture of experts"},
    {"nope_layer_interval", "Llama 4"},
    {"use_qk_norm", "Llama 4"},
    {"attention_chunk_size", "Llama 4"},
};

struct ConsumerEntry {
  ReferenceConsumer consumer;
  absl::string_view name;
};
constexpr ConsumerEntry kConsumers[] = {
    {ReferenceConsumer::kLlama1, "llama1"},
    {ReferenceConsumer::kLlama2, "llama2"},
    {ReferenceConsumer::kLlama3, "llama3"},
    {ReferenceConsumer::kFairseq2, "fairseq2"},
};

class Reader {
 public:
  // `place`: of `values` in the document.
  Reader(const Json& values, JsonPath place, bool carry_unknown)
      : values_(values), place_(std::move(place)), carry_unknown_(carry_unknown) {}

  absl::StatusOr<ReferenceParams> Read() {
    Size("dim", &params_.dim);
    Size("n_layers", &params_.n_layers);
    Size("n_heads", &params_.n_heads);
    Size("n_kv_heads", &params_.n_kv_heads);
    const Json* vocab = Find("vocab_size");
    if (vocab != nullptr && *vocab != -1) {
      Size("vocab_size", &params_.vocab_size);
    }
    Size("multiple_of", &params_.multiple_of);
    Positive("ffn_dim_multiplier", &params_.ffn_dim_multiplier);
    Positive("norm_eps", &params_.norm_eps);
    Positive("rope_theta", &params_.rope_theta);
    const Json* scaled = Find("use_scaled_rope");
    if (scaled != nullptr) {
      if (scaled->is_boolean()) {
        params_.use_scaled_rope = scaled->get<bool>();
      } else {
        Wrong("use_scaled_rope", *scaled, "true or false");
      }
    }
    ReadOthers();
    const absl::Status status = problems_.ToStatus("cannot be read");
    if (!status.ok()) {
      return status;
    }
    return std::move(params_);
  }

 private:
  // Null where it is absent or null.
  const Json* Find(const char* key) {
    known_.emplace_back(key);
    const auto it = values_.find(key);
    return it == values_.end() || it->is_null() ? nullptr : &*it;
  }

  void Wrong(absl::string_view key, const Json& value, absl::string_view wanted) {
    problems_.Add(ErrorKind::kConfig, absl::StrCat("\"", key, "\" is ", JsonText(value), ", wanted ", wanted));
  }

  void Size(const char* key, absl::optional<int64_t>* out) {
    const Json* value = Find(key);
    if (value == nullptr) {
      return;
    }
    // Larger than any size in bytes could be: nothing is multiplied unchecked below 2^31.
    if (value->is_number_integer() && *value > 0 && *value < (int64_t{1} << 31)) {
      *out = value->get<int64_t>();
    } else {
      Wrong(key, *value, "a positive integer below 2^31");
    }
  }

  void Positive(const char* key, absl::optional<double>* out) {
    const Json* value = Find(key);
    if (value == nullptr) {
      return;
    }
    if (value->is_number() && std::isfinite(value->get<double>()) && value->get<double>() > 0) {
      *out = value->get<double>();
    } else {
      Wrong(key, *value, "a positive number");
    }
  }

  void ReadOthers() {
    std::vector<std::string> unknown;
    for (auto it = values_.begin(); it != values_.end(); ++it) {
      const std::string& key = it.key();
      if (std::find(known_.begin(), known_.end(), key) != known_.end() || it->is_null()) {
        continue;
      }
      const auto refused = std::find_if(std::begin(kRefusedKeys), std::end(kRefusedKeys),
                                        [&key](const RefusedKey& row) { return absl::StartsWith(key, row.prefix); });
      if (refused != std::end(kRefusedKeys)) {
        problems_.Add(ErrorKind::kUnsupported,
                      absl::StrCat(Quoted(key), " is ", JsonText(*it), ": ", refused->reason, " cannot be converted"));
      } else if (std::find(std::begin(kRuntimeKeys), std::end(kRuntimeKeys), key) != std::end(kRuntimeKeys)) {
        params_.carried.push_back({JoinPaths(place_, {key}), kRuntime});
      } else {
        params_.carried.push_back({JoinPaths(place_, {key}), ""});
        unknown.push_back(absl::StrCat(Quoted(key), " = ", JsonText(*it)));
      }
    }
    if (!unknown.empty()) {
      const std::string list = absl::StrCat(unknown.size(), " unknown ", unknown.size() == 1 ? "key" : "keys", ": ",
                                            absl::StrJoin(unknown, ", "));
      if (carry_unknown_) {
        params_.notes.push_back(absl::StrCat("let in ", list));
      } else {
        problems_.Add(ErrorKind::kConfig,
                      absl::StrCat(list, "; they could change the model; --carry-unknown carries them through"));
      }
    }
  }

  const Json& values_;
  const JsonPath place_;
  const bool carry_unknown_;
  ReferenceParams params_;
  std::vector<std::string> known_;
  Problems problems_;
};

}  // namespace

absl::StatusOr<ReferenceParams> ReadReferenceParams(const Json& document, bool carry_unknown) {
  if (!document.is_object()) {
    return MakeError(ErrorKind::kSchema, absl::StrCat("is ", document.type_name(), ", must be an object"));
  }
  const auto model = document.find("model");
  if (model == document.end()) {
    return Reader(document, {}, carry_unknown).Read();
  }
  if (!model->is_object()) {
    return MakeError(ErrorKind::kSchema, absl::StrCat("\"model\" is ", model->type_name(), ", must be an object"));
  }
  std::vector<CarriedKey> carried;
  std::vector<std::string> beside;
  for (auto it = document.begin(); it != document.end(); ++it) {
    if (it.key() != "model" && !it->is_null()) {
      carried.push_back({{it.key()}, ""});
      beside.push_back(Quoted(it.key()));
    }
  }
  if (!beside.empty() && !carry_unknown) {
    return MakeError(ErrorKind::kConfig, absl::StrCat("unknown keys beside \"model\": ", absl::StrJoin(beside, ", "),
                                                      "; --carry-unknown carries them through"));
  }
  absl::StatusOr<ReferenceParams> params = Reader(*model, {"model"}, carry_unknown).Read();
  if (params.ok()) {
    params->nested = true;
    params->carried.insert(params->carried.end(), carried.begin(), carried.end());
    if (!beside.empty()) {
      params->notes.push_back(absl::StrCat("let in unknown keys beside \"model\": ", absl::StrJoin(beside, ", ")));
    }
  }
  return params;
}

absl::string_view ConsumerName(ReferenceConsumer consumer) {
  for (const ConsumerEntry& entry : kConsumers) {
    if (entry.consumer == consumer) {
      return entry.name;
    }
  }
  return "";
}

absl::StatusOr<ReferenceConsumer> ParseConsumer(absl::string_view name) {
  std::vector<absl::string_view> names;
  for (const ConsumerEntry& entry : kConsumers) {
    if (entry.name == name) {
      return entry.consumer;
    }
    names.push_back(entry.name);
  }
  return MakeError(ErrorKind::kRequest,
                   absl::StrCat("consumer is ", Quoted(name), ", choose from ", absl::StrJoin(names, ", ")));
}

ReferenceConsumer ConsumerOf(const ReferenceParams& params) {
  const bool of_meta = params.vocab_size.has_value() || params.use_scaled_rope.has_value();
  if (params.nested && params.rope_theta.has_value() && !of_meta) {
    return ReferenceConsumer::kFairseq2;
  }
  if (params.rope_theta.has_value() || of_meta) {
    return ReferenceConsumer::kLlama3;
  }
  return params.n_kv_heads.has_value() || params.ffn_dim_multiplier.has_value() ? ReferenceConsumer::kLlama2
                                                                                : ReferenceConsumer::kLlama1;
}

bool HasFairseq2Epsilon(const ReferenceParams& params) {
  return params.norm_eps == kFairseq2Epsilon && ConsumerOf(params) == ReferenceConsumer::kFairseq2;
}

std::string WriteReferenceParams(const ReferenceParams& params, ReferenceConsumer consumer) {
  const bool groups = params.n_kv_heads.has_value() && params.n_kv_heads != params.n_heads;
  const double multiplier = params.ffn_dim_multiplier.value_or(1.0);
  Json values = Json::object();
  switch (consumer) {
    case ReferenceConsumer::kLlama1:
    case ReferenceConsumer::kLlama2:
      values["dim"] = *params.dim;
      values["multiple_of"] = *params.multiple_of;
      if (multiplier != 1.0) {
        values["ffn_dim_multiplier"] = multiplier;
      }
      values["n_heads"] = *params.n_heads;
      if (groups) {
        values["n_kv_heads"] = *params.n_kv_heads;
      }
      values["n_layers"] = *params.n_layers;
      values["norm_eps"] = *params.norm_eps;
      values["vocab_size"] = -1;
      break;
    case ReferenceConsumer::kLlama3:
      values["dim"] = *params.dim;
      values["n_layers"] = *params.n_layers;
      values["n_heads"] = *params.n_heads;
      values["n_kv_heads"] = params.n_kv_heads.value_or(*params.n_heads);
      values["vocab_size"] = *params.vocab_size;
      values["ffn_dim_multiplier"] = multiplier;
      values["multiple_of"] = *params.multiple_of;
      values["norm_eps"] = *params.norm_eps;
      values["rope_theta"] = *params.rope_theta;
      values["use_scaled_rope"] = params.use_scaled_rope.value_or(false);
      break;
    case ReferenceConsumer::kFairseq2:
      values["dim"] = *params.dim;
      values["n_layers"] = *params.n_layers;
      values["n_heads"] = *params.n_heads;
      values["multiple_of"] = *params.multiple_of;
      values["rope_theta"] = *params.rope_theta;
      values["norm_eps"] = *params.norm_eps;
      if (groups) {
        values["n_kv_heads"] = *params.n_kv_heads;
      }
      if (multiplier != 1.0) {
        values["ffn_dim_multiplier"] = multiplier;
      }
      break;
  }
  if (!params.nested) {
    return JsonLine(values);
  }
  Json document = Json::object();
  document["model"] = std::move(values);
  return JsonLine(document);
}

std::string JsonLine(const Json& value) {
  if (value.is_object()) {
    std::vector<std::string> members;
    for (auto it = value.begin(); it != value.end(); ++it) {
      std::string member;
      AppendJsonString(it.key(), &member);
      members.push_back(absl::StrCat(member, ": ", JsonLine(*it)));
    }
    return absl::StrCat("{", absl::StrJoin(members, ", "), "}");
  }
  if (value.is_array()) {
    std::vector<std::string> elements;
    for (const Json& element : value) {
      elements.push_back(JsonLine(element));
    }
    return absl::StrCat("[", absl::StrJoin(elements, ", "), "]");
  }
  std::string text = DumpJson(value);
  absl::StripTrailingAsciiWhitespace(&text);
  return text;
}

}  // namespace waypoint::models
