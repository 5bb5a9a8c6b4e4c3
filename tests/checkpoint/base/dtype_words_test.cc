#include "checkpoint/base/dtype_words.h"

#include "gtest/gtest.h"

namespace waypoint {
namespace {

TEST(DTypeFromWordTest, TypesOfWeightsAsPeopleWriteThem) {
  for (const char* word : {"bfloat16", "bf16", "BF16", "torch.bfloat16"}) {
    EXPECT_EQ(DTypeFromWord(word), DType::kBF16) << word;
  }
  for (const char* word : {"float16", "fp16", "f16", "half", "Half", "torch.half"}) {
    EXPECT_EQ(DTypeFromWord(word), DType::kF16) << word;
  }
  for (const char* word : {"float32", "fp32", "f32", "float", "F32", "torch.float"}) {
    EXPECT_EQ(DTypeFromWord(word), DType::kF32) << word;
  }
}

TEST(DTypeFromWordTest, NothingElseIsAType) {
  for (const char* word : {"", "keep", "float64", "int8", "bf", "16", " bf16", "bf16,", "torch.", "torch.torch.half"}) {
    EXPECT_EQ(DTypeFromWord(word), DType::kInvalid) << word;
  }
}

}  // namespace
}  // namespace waypoint
