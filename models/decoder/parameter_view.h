#ifndef MODELS_DECODER_PARAMETER_VIEW_H_
#define MODELS_DECODER_PARAMETER_VIEW_H_

// Parameters below a prefix.
//
//   const ParameterView block(by_name, "decoder.3.");
//   block.Below("mixer.").Get("query.weight")          // decoder.3.mixer.query.weight
//
// The map is borrowed.  Thread-compatible: const methods may run concurrently.

#include <map>
#include <string>
#include <utility>

#include "ATen/core/Tensor.h"
#include "absl/strings/str_cat.h"

namespace waypoint::models {

class ParameterView {
 public:
  ParameterView(const std::map<std::string, at::Tensor>& by_name, std::string prefix)
      : by_name_(by_name), prefix_(std::move(prefix)) {}

  ParameterView Below(absl::string_view prefix) const { return ParameterView(by_name_, absl::StrCat(prefix_, prefix)); }

  // An undefined tensor when the model has no such parameter, which is what ATen takes for "no bias".
  at::Tensor Get(absl::string_view name) const {
    const auto it = by_name_.find(absl::StrCat(prefix_, name));
    return it == by_name_.end() ? at::Tensor() : it->second;
  }

 private:
  const std::map<std::string, at::Tensor>& by_name_;
  std::string prefix_;
};

}  // namespace waypoint::models

#endif  // MODELS_DECODER_PARAMETER_VIEW_H_
