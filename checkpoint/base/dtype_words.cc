#include "checkpoint/base/dtype_words.h"

#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/strip.h"

namespace waypoint {
namespace {

struct Word {
  const char* text;
  DType dtype;
};

constexpr Word kWords[] = {
    {"bfloat16", DType::kBF16}, {"bf16", DType::kBF16}, {"float16", DType::kF16}, {"fp16", DType::kF16},
    {"f16", DType::kF16},       {"half", DType::kF16},  {"float32", DType::kF32}, {"fp32", DType::kF32},
    {"f32", DType::kF32},       {"float", DType::kF32},
};

}  // namespace

DType DTypeFromWord(absl::string_view word) {
  const std::string lower = absl::AsciiStrToLower(word);
  const absl::string_view text = absl::StripPrefix(lower, "torch.");
  for (const Word& known : kWords) {
    if (text == known.text) {
      return known.dtype;
    }
  }
  return DType::kInvalid;
}

absl::string_view DTypeWords() { return "bfloat16 (bf16), float16 (fp16, half), float32 (fp32, float)"; }

}  // namespace waypoint
