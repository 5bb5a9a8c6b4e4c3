#ifndef MODELS_LLAMA_ROPE_CONFIG_H_
#define MODELS_LLAMA_ROPE_CONFIG_H_

// The rotary embedding in a transformers config.json, in both of its layouts.
//
//   transformers 4: "rope_theta": 10000.0, "rope_scaling": null | {"rope_type": ..., parameters}; before 4.43 the
//   type's key
//                   is "type"
//   transformers 5: "rope_parameters": {"rope_type": ..., "rope_theta": ..., parameters}
//
// Types: default, linear, dynamic, llama3, yarn; others are E_UNSUPPORTED by name.  A parameter that the type does not
// have is an unknown key.  Source: transformers, modeling_rope_utils.py, 4.31 to 5.12. Thread-safe.

#include <cstdint>
#include <string>

#include "checkpoint/convert/config/primitive.h"

namespace waypoint::models {

struct RopeDefaults {
  double theta = 10000.0;
  // Where a type needs a context length and the config does not have max_position_embeddings.
  int64_t max_position_embeddings = 2048;
};

// native: path of a waypoint.models.Rotary, claimed recursively.
//
// Import: both layouts, also side by side when they agree.  llama3 and yarn without original_max_position_embeddings,
// and dynamic always, take max_position_embeddings.  yarn: an absent factor is max_position_embeddings over the
// original length, absent or zero betas are 32 and 1.  A partial_rotary_factor other than 1 is E_UNSUPPORTED.
// max_position_embeddings must be a positive integer or absent, whether it is used or not.  Export:
// in the layout of the original; without one, of the export's options.
PrimitivePtr RopeDeclaration(std::string native, RopeDefaults defaults = {});

}  // namespace waypoint::models

#endif  // MODELS_LLAMA_ROPE_CONFIG_H_
