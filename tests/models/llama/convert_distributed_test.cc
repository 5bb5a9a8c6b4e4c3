// A Hugging Face model saved by three ranks, converted to the native format and back: the same tensors and config.

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/checkpoint/format/distributed/job.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_directory.h"

namespace waypoint {
namespace {

using ::testing::Each;

std::string Read(const std::string& path) {
  return ReadSmallFile(PosixFileSystem(), path, 1 << 26, "test_bytes").value();
}

void Convert(const std::string& from, const std::string& to, const std::string& format) {
  FileSystem& fs = PosixFileSystem();
  ASSERT_OK_AND_ASSIGN(CheckpointFormat * detected, DetectFormat(fs, from));
  ASSERT_OK_AND_ASSIGN(const OpenedCheckpoint opened, detected->Open(fs, from, {}));
  WriteOptions options;
  options.format = format;
  ASSERT_OK(WriteCheckpoint(fs, to, options, opened.metadata, *opened.tensors, opened.assets));
}

TEST(ConvertDistributedTest, ToNativeAndBackToLlamaGivesTheSameModel) {
  FileSystem& fs = PosixFileSystem();
  const TempDirectory directory;
  // A copy, since a test sees its data as links, which lead out of the directory.
  const std::string original = directory.Path("original");
  directory.MakeDirectory("original");
  for (const char* name : {"config.json", "generation_config.json", "model.safetensors"}) {
    directory.Write(absl::StrCat("original/", name),
                    Read(absl::StrCat("tests/testdata/fixtures/llama31_v5_bf16/hf/", name)));
  }
  ASSERT_OK_AND_ASSIGN(CheckpointFormat * format, DetectFormat(fs, original));
  ASSERT_OK_AND_ASSIGN(const OpenedCheckpoint opened, format->Open(fs, original, {}));

  const auto statuses = RunJob(3, [&](std::unique_ptr<Coordinator> coordinator) {
    RankSource mine(*opened.tensors, TensorParallelZero, coordinator->rank(), 3);
    WriteOptions options;
    options.format = "distributed";
    options.save.coordinator = coordinator.get();
    return WriteCheckpoint(fs, directory.Path("distributed"), options, opened.metadata, mine, opened.assets).status();
  });
  ASSERT_THAT(statuses, Each(IsOk()));
  Convert(directory.Path("distributed"), directory.Path("native"), "native");
  Convert(directory.Path("native"), directory.Path("llama"), "llama");

  ASSERT_OK_AND_ASSIGN(OpenedCheckpoint returned, format->Open(fs, directory.Path("llama"), {}));
  RankSink sink(opened.tensors->manifest(), Replicated, 0, 1);
  ASSERT_OK(Restore(returned, sink, {}));
  EXPECT_EQ(sink.Difference(*opened.tensors), "");
  EXPECT_EQ(returned.tensors->manifest().size(), opened.tensors->manifest().size());
  EXPECT_EQ(Read(directory.Path("llama/config.json")), Read(original + "/config.json"));
}

}  // namespace
}  // namespace waypoint
