#ifndef CHECKPOINT_BASE_DTYPE_WORDS_H_
#define CHECKPOINT_BASE_DTYPE_WORDS_H_

// The types of weights as people write them on command lines and in configs.  What files say has one spelling each
// (dtype.h).  Thread-safe.

#include "absl/strings/string_view.h"
#include "checkpoint/base/dtype.h"

namespace waypoint {

// bfloat16: "bfloat16", "bf16".  float16: "float16", "fp16", "f16", "half".  float32: "float32", "fp32", "f32",
// "float". Case does not matter, nor "torch." before it.  kInvalid for any other text.
DType DTypeFromWord(absl::string_view word);

// For messages and --help: "bfloat16 (bf16), float16 (fp16, half), float32 (fp32, float)".
absl::string_view DTypeWords();

}  // namespace waypoint

#endif  // CHECKPOINT_BASE_DTYPE_WORDS_H_
