#ifndef MODELS_LLAMA_CONFIG_DEFAULTS_H_
#define MODELS_LLAMA_CONFIG_DEFAULTS_H_

// transformers' defaults of a LlamaConfig.  Does not link libtorch.  Thread-safe.

#include <memory>

#include "checkpoint/format/external/config_defaults.h"

namespace waypoint::models {

// From transformers 4.31 to 5.12: models/llama/configuration_llama.py, and configuration_utils.py for what every config
// has.  What version 5 writes as rope_parameters and dtype has the values of version 4's rope_theta, rope_scaling and
// torch_dtype, and the reverse.
std::unique_ptr<ConfigDefaults> NewLlamaConfigDefaults();

}  // namespace waypoint::models

#endif  // MODELS_LLAMA_CONFIG_DEFAULTS_H_
