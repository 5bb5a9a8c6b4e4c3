#include "models/llama/reference/options.h"

#include <cmath>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/json.h"
#include "checkpoint/base/status_macros.h"

namespace waypoint::models {
namespace {

class Parser {
 public:
  explicit Parser(const FormatOptionValues& values) : values_(values) {}

  absl::StatusOr<ReferenceOptions> Parse() {
    ReferenceOptions options;
    if (const std::string* name = Find("model")) {
      WAYPOINT_ASSIGN_OR_RETURN(options.hints.architecture, FindLlamaArchitecture(*name));
    }
    options.hints.fairseq2_errors = Switch("fairseq2-errors");
    WAYPOINT_ASSIGN_OR_RETURN(options.hints.rope_factor, Number("rope-factor", 1));
    WAYPOINT_ASSIGN_OR_RETURN(options.hints.norm_eps, Number("norm-eps", 0));
    options.ignore_params = Switch("ignore-params");
    WAYPOINT_ASSIGN_OR_RETURN(const absl::optional<double> tolerance, Number("replica-tolerance", 0));
    options.replica_tolerance = tolerance.value_or(options.replica_tolerance);
    WAYPOINT_ASSIGN_OR_RETURN(options.tied, Choice("tied", "yes", "no", "auto"));
    WAYPOINT_ASSIGN_OR_RETURN(options.hints.kv_copies, Count("kv-copies", "a number of copies, or auto", "auto"));
    WAYPOINT_ASSIGN_OR_RETURN(options.model_parallel, Count("model-parallel", "a number of files", ""));
    if (const std::string* name = Find("consumer")) {
      WAYPOINT_ASSIGN_OR_RETURN(options.consumer, ParseConsumer(*name));
    }
    WAYPOINT_ASSIGN_OR_RETURN(options.nested, Choice("params-layout", "nested", "flat", ""));
    options.emit_rope_freqs = Switch("emit-rope-freqs");
    return options;
  }

 private:
  const std::string* Find(const char* name) const {
    const auto it = values_.find(name);
    return it == values_.end() ? nullptr : &it->second;
  }

  static absl::Status Wrong(const char* name, const std::string& text, absl::string_view wanted) {
    return MakeError(ErrorKind::kRequest, absl::StrCat(name, " is ", Quoted(text), ", wanted ", wanted));
  }

  bool Switch(const char* name) const {
    const std::string* text = Find(name);
    return text != nullptr && *text == "true";
  }

  absl::StatusOr<absl::optional<double>> Number(const char* name, double least) const {
    const std::string* text = Find(name);
    if (text == nullptr) {
      return absl::optional<double>();
    }
    double number = 0;
    if (!absl::SimpleAtod(*text, &number) || !std::isfinite(number) || number < least) {
      return Wrong(name, *text, absl::StrCat("a number, ", least, " or more"));
    }
    return absl::optional<double>(number);
  }

  // Unset for `automatic`.
  absl::StatusOr<absl::optional<int64_t>> Count(const char* name, absl::string_view wanted,
                                                absl::string_view automatic) const {
    const std::string* text = Find(name);
    if (text == nullptr || (*text == automatic && !automatic.empty())) {
      return absl::optional<int64_t>();
    }
    int64_t count = 0;
    if (!absl::SimpleAtoi(*text, &count) || count < 1) {
      return Wrong(name, *text, wanted);
    }
    return absl::optional<int64_t>(count);
  }

  // True, false, or unset for `neither`.
  absl::StatusOr<absl::optional<bool>> Choice(const char* name, absl::string_view yes, absl::string_view no,
                                              absl::string_view neither) const {
    const std::string* text = Find(name);
    if (text == nullptr || (*text == neither && !neither.empty())) {
      return absl::optional<bool>();
    }
    if (*text != yes && *text != no) {
      return Wrong(name, *text, absl::StrCat(yes, " or ", no, neither.empty() ? "" : " or ", neither));
    }
    return absl::optional<bool>(*text == yes);
  }

  const FormatOptionValues& values_;
};

FormatOption Option(std::string name, std::string value, std::string help, bool on_load, bool on_save) {
  return {std::move(name), std::move(value), std::move(help), on_load, on_save};
}

}  // namespace

std::vector<FormatOption> ReferenceFormatOptions() {
  std::string names;
  for (const LlamaArchitecture& architecture : LlamaArchitectures()) {
    absl::StrAppend(&names, names.empty() ? "" : ", ", architecture.name);
  }
  return {
      Option("model", "NAME",
             absl::StrCat("the released model that this is; settles what tensors and params.json leave open: ", names),
             true, true),
      Option("rope-factor", "F",
             "of the rotary scaling that use_scaled_rope means, where the model's name does not say it", true, true),
      Option("norm-eps", "E",
             "of the norms, where params.json does not say it or is fairseq2's, which has 1e-05 for every model", true,
             false),
      Option("ignore-params", "", "read nothing from params.json; --model says the rest", true, false),
      Option("replica-tolerance", "T", "by how much norms may differ between the files (0.01)", true, false),
      Option("tied", "auto|yes|no",
             "is the output head the embedding? auto: when their bytes are the same; say no for a model with a head of "
             "its own that equals the embedding",
             true, false),
      Option("kv-copies", "auto|N",
             "how many files in a row hold the same head of keys and values; auto: what --model says, else what their "
             "bytes show; say 1 for a model whose own heads are equal",
             true, false),
      Option("model-parallel", "N", "files to write; default: as it came, else as the model ships, else 1; fairseq2: 1",
             false, true),
      Option("consumer", "NAME",
             "whose params.json to write: llama1, llama2, llama3, fairseq2; default: as it came, else llama2 or, where "
             "that cannot say the model, llama3",
             false, true),
      Option("params-layout", "flat|nested", "nested: {\"model\": {...}}, as fairseq2 writes it", false, true),
      Option("emit-rope-freqs", "", "write rope.freqs, as Llama 1 and 2 files have it", false, true),
      Option("fairseq2-errors", "",
             "params.json has fairseq2's wrong 32 layers for a 13b, or its wrong ffn_dim_multiplier", true, true),
  };
}

absl::StatusOr<ReferenceOptions> ParseReferenceOptions(const FormatOptionValues& values) {
  return Parser(values).Parse();
}

}  // namespace waypoint::models
