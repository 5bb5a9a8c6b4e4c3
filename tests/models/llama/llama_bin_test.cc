// Llama checkpoints in PyTorch's own files, against what the library that wrote them computed and against a rewrite of
// them as safetensors.
#include <string>

#include "absl/strings/str_cat.h"
#include "checkpoint/checkpointer/checkpointer.h"
#include "checkpoint/storage/memory_file_system.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/llama/llama_format.h"
#include "tests/testing/fixture_copy.h"
#include "tests/testing/status_matchers.h"

namespace waypoint::models {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

std::string Bytes(TensorSource& source, int64_t tensor) {
  const TensorMeta& meta = source.manifest()[tensor];
  std::string bytes(meta.num_bytes(), '\0');
  EXPECT_OK(source.Read(
      {{tensor, Box::Whole(meta.shape), StridedSpan::Contiguous(&bytes[0], DTypeBytes(meta.dtype), meta.shape)}}));
  return bytes;
}

class LlamaBinTest : public testing::TestWithParam<const char*> {};

TEST_P(LlamaBinTest, SafetensorsMadeOfItHoldTheSame) {
  MemoryFileSystem fs;
  CopyDirectory(absl::StrCat("tests/testdata/fixtures/", GetParam(), "/hf"), fs, "/bin");
  ASSERT_OK_AND_ASSIGN(const OpenedCheckpoint bin, NewLlamaFormat()->Open(fs, "/bin", {}));
  EXPECT_THAT(bin.notes, Contains(HasSubstr("inv_freq")));
  EXPECT_EQ(bin.tensors->manifest().size(), 24);
  WriteOptions options;
  options.format = "llama";
  ASSERT_OK(WriteCheckpoint(fs, "/model", options, bin.metadata, *bin.tensors, {}));

  ASSERT_OK_AND_ASSIGN(const OpenedCheckpoint rewritten, NewLlamaFormat()->Open(fs, "/model", {}));

  ASSERT_EQ(rewritten.tensors->manifest().size(), bin.tensors->manifest().size());
  for (int64_t i = 0; i < bin.tensors->manifest().size(); ++i) {
    const std::string& name = bin.tensors->manifest()[i].name;
    const int64_t other = rewritten.tensors->manifest().Find(name);
    ASSERT_GE(other, 0) << name;
    EXPECT_TRUE(Bytes(*bin.tensors, i) == Bytes(*rewritten.tensors, other)) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Fixtures, LlamaBinTest, testing::Values("llama1_fp16_bin", "llama2_fp16_bin_sharded"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace waypoint::models
