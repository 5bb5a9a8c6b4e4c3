#ifndef CHECKPOINT_FORMAT_EXTERNAL_CONFIG_DEFAULTS_H_
#define CHECKPOINT_FORMAT_EXTERNAL_CONFIG_DEFAULTS_H_

// What the program of an external format takes for a key that its config file does not have, so that a config which
// writes that out can be told from one that says something else.  Registered under the format's name:
//
//   const ConfigDefaults* defaults = Registry<ConfigDefaults>::Global().Find("llama");
//   defaults->Of("rope_theta", config);  // 10000.0
//
// For comparisons alone: what a conversion takes for an absent key, its config declarations say.  Thread-safe.

#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "checkpoint/base/json.h"

namespace waypoint {

class ConfigDefaults {
 public:
  virtual ~ConfigDefaults() = default;
  // For `key` at the root of `config`, which does not have it; what else it says may decide (head_dim).  Empty where
  // there is no default: then a config with the key says more.
  virtual absl::optional<Json> Of(absl::string_view key, const Json& config) const = 0;
};

}  // namespace waypoint

#endif  // CHECKPOINT_FORMAT_EXTERNAL_CONFIG_DEFAULTS_H_
