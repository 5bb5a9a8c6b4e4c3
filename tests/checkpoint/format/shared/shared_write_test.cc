// Many ranks write the files of one: the same bytes, each once, within the bound.

#include <atomic>
#include <tuple>

#include "checkpoint/base/registry.h"
#include "checkpoint/storage/memory_file_system.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/checkpoint/format/shared/shared_job.h"
#include "tests/testing/directory_contents.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_directory.h"

namespace waypoint {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;

WriteOptions Options(const std::string& format) {
  WriteOptions options;
  options.format = format;
  options.save.max_shard_bytes = 3'000'000;
  options.transfer.threads = 2;
  return options;
}

// A fixture's Hugging Face directory: a copy, since a test sees its data as links, which lead out of the directory.
std::string CopyFixture(const TempDirectory& directory, const std::string& fixture) {
  directory.MakeDirectory("original");
  const std::string source = absl::StrCat("tests/testdata/fixtures/", fixture, "/hf/");
  for (const char* name : {"config.json", "generation_config.json", "model.safetensors"}) {
    directory.Write(absl::StrCat("original/", name),
                    ReadSmallFile(PosixFileSystem(), source + name, 1 << 26, "test_bytes").value());
  }
  return directory.Path("original");
}

using Case = std::tuple<NamedLayout, int>;

std::string CaseName(const ::testing::TestParamInfo<Case>& info) {
  return absl::StrCat(std::get<0>(info.param).name, "_by_", std::get<1>(info.param));
}

class SharedWriteTest : public ::testing::TestWithParam<Case> {
 protected:
  Layout layout() const { return std::get<0>(GetParam()).layout; }
  int world_size() const { return std::get<1>(GetParam()); }
  void ExpectSame(const Model& model, const WriteOptions& options) {
    const DirectoryContents one = SavedByOne(model, options);
    const DirectoryContents many = SavedByMany(model, options, layout(), world_size());
    ASSERT_EQ(many.size(), one.size());
    for (const auto& [name, bytes] : one) {
      // Not printed: megabytes.
      EXPECT_TRUE(many.count(name) == 1 && many.at(name) == bytes) << name;
    }
  }
};

TEST_P(SharedWriteTest, NativeFilesAreThoseOfOneRank) {
  const std::unique_ptr<MemorySource> state = RoundsState(1);

  ExpectSame({MetadataOf(3), state.get(), {}}, Options("native"));
}

TEST_P(SharedWriteTest, LlamaFilesAreThoseOfOneRank) {
  for (const std::string fixture : {"llama31_v5_bf16", "llama32_tied_bf16", "llama2_fp32"}) {
    SCOPED_TRACE(fixture);
    const TempDirectory directory;
    const std::string original = CopyFixture(directory, fixture);
    ASSERT_OK_AND_ASSIGN(CheckpointFormat * format, DetectFormat(PosixFileSystem(), original));
    ASSERT_OK_AND_ASSIGN(const OpenedCheckpoint opened, format->Open(PosixFileSystem(), original, {}));
    WriteOptions options = Options("llama");
    options.save.max_shard_bytes = 60'000;
    if (fixture == "llama2_fp32") {
      options.save.weights_dtype = DType::kBF16;
    }

    ExpectSame({opened.metadata, opened.tensors.get(), {}}, options);
  }
}

INSTANTIATE_TEST_SUITE_P(Jobs, SharedWriteTest,
                         ::testing::Combine(::testing::ValuesIn(kLayouts), ::testing::Values(1, 2, 3, 4, 6)), CaseName);

TEST(SharedWriteErrorTest, WithoutAnExchangePartsOfTensorsAreRefusedByAll) {
  const std::unique_ptr<MemorySource> state = SmallState(1);
  MemoryFileSystem disk;
  SharedJob job(NewThreadCoordinators(2));

  const auto statuses = job.Run([&](int rank) {
    RankSource mine(*state, Rows, rank, 2);
    WriteOptions options = Options("native");
    options.save = job.Options(rank);
    options.save.exchange = nullptr;
    return WriteCheckpoint(disk, "/out", options, MetadataOf(1), mine, {}).status();
  });

  EXPECT_THAT(statuses, Each(IsKind(ErrorKind::kRequest, HasSubstr("no exchange"))));
  EXPECT_THAT(disk.List("/").value(), ::testing::IsEmpty());
}

TEST(SharedWriteErrorTest, TooSmallABoundIsRefusedByAll) {
  const std::unique_ptr<MemorySource> state = SmallState(1);
  MemoryFileSystem disk;
  SharedJob job(NewThreadCoordinators(2));

  const auto statuses = job.Run([&](int rank) {
    RankSource mine(*state, Rows, rank, 2);
    WriteOptions options = Options("native");
    options.save = job.Options(rank);
    options.save.max_exchange_bytes = 1000;
    return WriteCheckpoint(disk, "/out", options, MetadataOf(1), mine, {}).status();
  });

  EXPECT_THAT(statuses, Each(IsKind(ErrorKind::kRequest, HasSubstr("max_exchange_bytes"))));
}

TEST(SharedWriteErrorTest, WhatNobodyHoldsIsNamed) {
  const std::unique_ptr<MemorySource> state = SmallState(1);
  MemoryFileSystem disk;
  SharedJob job(NewThreadCoordinators(2));

  const auto statuses = job.Run([&](int rank) {
    RankSource mine(*state, Rows, rank, 3);
    WriteOptions options = Options("native");
    options.save = job.Options(rank);
    return WriteCheckpoint(disk, "/out", options, MetadataOf(1), mine, {}).status();
  });

  EXPECT_THAT(statuses, Each(IsKind(ErrorKind::kMissing, HasSubstr("no rank holds"))));
}

TEST(SharedWriteErrorTest, AReadThatFailsOnOneRankIsToldToAllAndLeavesNothing) {
  class Failing : public RankSource {
   public:
    using RankSource::RankSource;
    absl::Status Read(absl::Span<const ReadRequest>) override { return MakeError(ErrorKind::kIo, "device lost"); }
  };
  const std::unique_ptr<MemorySource> state = RoundsState(1);
  MemoryFileSystem disk;
  SharedJob job(NewThreadCoordinators(3));

  const auto statuses = job.Run([&](int rank) {
    RankSource healthy(*state, Rows, rank, 3);
    Failing failing(*state, Rows, rank, 3);
    WriteOptions options = Options("native");
    options.save = job.Options(rank);
    return WriteCheckpoint(disk, "/out", options, MetadataOf(1), rank == 1 ? failing : healthy, {}).status();
  });

  EXPECT_THAT(statuses[1], IsKind(ErrorKind::kIo, HasSubstr("device lost")));
  for (const int rank : {0, 2}) {
    EXPECT_THAT(statuses[rank],
                IsKind(ErrorKind::kRank, ::testing::AllOf(HasSubstr("rank 1"), HasSubstr("device lost"))));
  }
  EXPECT_THAT(disk.List("/").value(), ::testing::IsEmpty());
}

// Reads nothing before the others have given up; its coordinator lives, so that it neither comes nor leaves.
class StallingSource : public RankSource {
 public:
  StallingSource(TensorSource& state, int rank, const std::atomic<int>& given_up)
      : RankSource(state, Columns, rank, 3), given_up_(given_up) {}

  absl::Status Read(absl::Span<const ReadRequest> requests) override {
    while (given_up_ < 2) {
      absl::SleepFor(absl::Milliseconds(10));
    }
    return RankSource::Read(requests);
  }

 private:
  const std::atomic<int>& given_up_;
};

TEST(SharedWriteErrorTest, ARankThatStaysAwayIsNamedAndNothingIsPublished) {
  const std::unique_ptr<MemorySource> state = RoundsState(1);
  MemoryFileSystem disk;
  SharedJob job(NewThreadCoordinators(3));
  std::atomic<int> given_up{0};

  const auto statuses = job.Run([&](int rank) {
    RankSource healthy(*state, Columns, rank, 3);
    StallingSource stalling(*state, rank, given_up);
    WriteOptions options = Options("native");
    options.save = job.Options(rank);
    // Long enough for those that only are slow.
    options.save.coordination_timeout = absl::Seconds(2);
    const absl::Status status =
        WriteCheckpoint(disk, "/out", options, MetadataOf(1), rank == 2 ? stalling : healthy, {}).status();
    ++given_up;
    return status;
  });

  EXPECT_THAT(statuses[0], IsKind(ErrorKind::kRank, HasSubstr("rank 2 did not come")));
  EXPECT_THAT(statuses[1], IsKind(ErrorKind::kRank, HasSubstr("rank 2 did not come")));
  EXPECT_THAT(statuses[2], IsKind(ErrorKind::kRank));
  EXPECT_FALSE(Exists(disk, "/out").value());
}

TEST(SharedWriteCacheTest, ASecondSaveOfTheSameLayoutGathersNothing) {
  const std::unique_ptr<MemorySource> state = SmallState(1);
  MemoryFileSystem disk;
  SharedJob job(NewThreadCoordinators(2));
  std::vector<PlanCache> caches(2);

  const auto statuses = job.Run([&](int rank) -> absl::Status {
    for (const Layout layout : {Rows, Rows, Columns, Columns}) {
      RankSource mine(*state, layout, rank, 2);
      WriteOptions options = Options("native");
      options.overwrite = true;
      options.save = job.Options(rank);
      options.save.plan_cache = &caches[rank];
      const auto written = WriteCheckpoint(disk, "/out", options, MetadataOf(1), mine, {});
      if (!written.ok()) {
        return written.status();
      }
    }
    return absl::OkStatus();
  });

  EXPECT_THAT(statuses, Each(IsOk()));
  EXPECT_EQ(caches[0].hits(), 2);
  EXPECT_EQ(caches[1].hits(), 2);
  EXPECT_EQ(ReadContents(disk, "/out"), SavedByOne({MetadataOf(1), state.get(), {}}, Options("native")));
}

}  // namespace
}  // namespace waypoint
