// Llama checkpoints in PyTorch's own files, against what the library that wrote them computed and against a rewrite of
// them as safetensors.
#include <iterator>
#include <map>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/checkpointer/checkpointer.h"
#include "checkpoint/container/torch_zip/torch_source.h"
#include "checkpoint/format/external/hf_directory.h"
#include "checkpoint/storage/memory_file_system.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/llama/llama_format.h"
#include "tests/testing/decoder_state.h"
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

// All tensors of the .bin files of a directory; shared ones under each name.
std::map<std::string, std::string> BinTensors(FileSystem& fs, const std::string& directory) {
  LoadOptions strict;
  strict.strict = true;
  const auto hf = ReadHfDirectory(fs, directory, strict);
  EXPECT_OK(hf);
  std::map<std::string, std::string> tensors;
  for (const HfBinShard& shard : hf->bin_shards) {
    const auto source = TorchSource::Create(fs, {shard.contents}, {});
    EXPECT_OK(source);
    for (int64_t i = 0; i < (*source)->manifest().size(); ++i) {
      const TensorMeta& meta = (*source)->manifest()[i];
      tensors[absl::StrCat(meta.name, " ", DTypeName(meta.dtype), " ", ShapeString(meta.shape))] = Bytes(**source, i);
    }
  }
  return tensors;
}

WriteOptions AsBin(int64_t max_shard_bytes = 5'000'000'000) {
  WriteOptions options;
  options.format = "llama";
  options.save.format_options["weights"] = "bin";
  options.save.max_shard_bytes = max_shard_bytes;
  return options;
}

TEST_P(LlamaBinTest, BinFilesComeBackThroughNative) {
  MemoryFileSystem fs;
  CopyDirectory(absl::StrCat("tests/testdata/fixtures/", GetParam(), "/hf"), fs, "/bin");
  ASSERT_OK_AND_ASSIGN(const OpenedCheckpoint bin, NewLlamaFormat()->Open(fs, "/bin", {}));
  ASSERT_OK(WriteCheckpoint(fs, "/native", {}, bin.metadata, *bin.tensors, {}));
  ASSERT_OK_AND_ASSIGN(CheckpointFormat * native, DetectFormat(fs, "/native"));
  ASSERT_OK_AND_ASSIGN(const OpenedCheckpoint between, native->Open(fs, "/native", {}));
  ASSERT_OK(WriteCheckpoint(fs, "/one", AsBin(), between.metadata, *between.tensors, {}));
  ASSERT_OK(WriteCheckpoint(fs, "/some", AsBin(30'000), between.metadata, *between.tensors, {}));

  std::map<std::string, std::string> wanted = BinTensors(fs, "/bin");
  for (auto it = wanted.begin(); it != wanted.end();) {
    // Recomputed, not stored.
    it = absl::StrContains(it->first, "inv_freq") ? wanted.erase(it) : std::next(it);
  }
  EXPECT_FALSE(wanted.empty());
  EXPECT_TRUE(BinTensors(fs, "/one") == wanted);
  EXPECT_TRUE(BinTensors(fs, "/some") == wanted);
  EXPECT_TRUE(Exists(fs, "/one/pytorch_model.bin").value());
  EXPECT_FALSE(Exists(fs, "/one/pytorch_model.bin.index.json").value());
  EXPECT_TRUE(Exists(fs, "/some/pytorch_model.bin.index.json").value());
  EXPECT_FALSE(Exists(fs, "/some/pytorch_model.bin").value());
}

class TiedBinTest : public testing::TestWithParam<int64_t> {};

// The embedding is in the first of the files, and its copy must be with it.
TEST_P(TiedBinTest, CopiesShareTheStorageOfTheirOriginal) {
  MemoryFileSystem fs;
  DecoderConfig config = TinyConfig();
  config.set_tied_embedding_weight(true);
  DecoderState state = NewDecoderState(config, 3, DType::kBF16, false);
  state.metadata.add_stored_copies("lm_head.weight");
  ASSERT_OK(WriteCheckpoint(fs, "/tied", AsBin(GetParam()), state.metadata, *state.tensors, {}));

  LoadOptions strict;
  strict.strict = true;
  ASSERT_OK_AND_ASSIGN(const HfDirectory hf, ReadHfDirectory(fs, "/tied", strict));
  EXPECT_EQ(hf.bin_shards.size() > 1, GetParam() < 5000);
  int copies = 0;
  for (const HfBinShard& shard : hf.bin_shards) {
    const auto& tensors = shard.contents.tensors;
    for (size_t i = 0; i < tensors.size(); ++i) {
      if (tensors[i].name == "lm_head.weight") {
        ++copies;
        ASSERT_GT(i, 0u);
        EXPECT_EQ(tensors[i - 1].name, "model.embed_tokens.weight");
        EXPECT_EQ(tensors[i - 1].storage, tensors[i].storage);
      }
    }
  }
  EXPECT_EQ(copies, 1);

  ASSERT_OK_AND_ASSIGN(const OpenedCheckpoint opened, NewLlamaFormat()->Open(fs, "/tied", strict));
  EXPECT_THAT(opened.metadata.stored_copies(), testing::ElementsAre("lm_head.weight"));
  ASSERT_OK_AND_ASSIGN(const auto writer,
                       NewLlamaFormat()->Create(fs, "", opened.metadata, *opened.tensors, {}, AsBin().save));
  EXPECT_THAT(writer->PlanLines(), Contains("lm_head.weight = model.embed_tokens.weight, shared with "
                                            "model.embed_tokens.weight"));
}

INSTANTIATE_TEST_SUITE_P(ShardBytes, TiedBinTest, testing::Values(2000, 5'000'000'000));

TEST(LlamaBinOptionTest, SafetensorsUnlessAskedFor) {
  MemoryFileSystem fs;
  const DecoderState state = NewDecoderState(TinyConfig(), 3, DType::kBF16, false);
  WriteOptions options = AsBin();
  options.save.format_options.clear();
  ASSERT_OK(WriteCheckpoint(fs, "/default", options, state.metadata, *state.tensors, {}));
  options.save.format_options["weights"] = "safetensors";
  ASSERT_OK(WriteCheckpoint(fs, "/named", options, state.metadata, *state.tensors, {}));

  EXPECT_TRUE(Exists(fs, "/default/model.safetensors").value());
  EXPECT_TRUE(Exists(fs, "/named/model.safetensors").value());

  options.save.format_options["weights"] = "pickle";
  EXPECT_THAT(WriteCheckpoint(fs, "/other", options, state.metadata, *state.tensors, {}),
              IsKind(ErrorKind::kRequest, HasSubstr("wanted safetensors or bin")));
}

INSTANTIATE_TEST_SUITE_P(Fixtures, LlamaBinTest, testing::Values("llama1_fp16_bin", "llama2_fp16_bin_sharded"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace waypoint::models
