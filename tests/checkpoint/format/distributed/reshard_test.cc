// Saved under one layout, loaded under any other: bit-equal, and only the bytes that are needed are read.

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/registry.h"
#include "checkpoint/storage/memory_file_system.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/checkpoint/format/distributed/job.h"
#include "tests/testing/one_rank_format.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;

constexpr int kWorldSizes[] = {1, 2, 3, 4, 6};

std::vector<absl::Status> Save(FileSystem& fs, const std::string& root, TensorSource& state, Layout layout,
                               int world_size, int64_t step = 1) {
  return RunJob(world_size, [&](std::unique_ptr<Coordinator> coordinator) {
    RankSource mine(state, layout, coordinator->rank(), world_size);
    return CheckpointRoot(fs, root).Save(DistributedOptions(*coordinator), MetadataOf(step), mine).status();
  });
}

absl::StatusOr<OpenedCheckpoint> OpenLatest(FileSystem& fs, const std::string& root, const LoadOptions& options = {}) {
  const auto latest = CheckpointRoot(fs, root).Latest();
  if (!latest.ok() || !latest->has_value()) {
    return MakeError(ErrorKind::kMissing, "no checkpoint");
  }
  const auto format = DetectFormat(fs, (*latest)->path);
  return format.ok() ? (*format)->Open(fs, (*latest)->path, options) : format.status();
}

// Bytes read from disk by one rank over the bytes that it holds.
double ReadRatio(FileSystem& fs, const std::string& root, TensorSource& state, Layout layout, int rank, int world_size,
                 const LoadOptions& options = {}) {
  auto opened = OpenLatest(fs, root, options);
  EXPECT_OK(opened);
  RankSink sink(state.manifest(), layout, rank, world_size);
  EXPECT_OK(Restore(*opened, sink, {}));
  EXPECT_EQ(sink.Difference(state), "");
  return static_cast<double>(opened->tensors->stats().bytes_read) / sink.bytes();
}

class ReshardTest : public ::testing::TestWithParam<NamedLayout> {};

TEST_P(ReshardTest, EveryLayoutLoadsWhatThisOneSaved) {
  const std::unique_ptr<MemorySource> state = SmallState(7);
  for (const int saved_ranks : kWorldSizes) {
    MemoryFileSystem fs;
    ASSERT_THAT(Save(fs, "/run", *state, GetParam().layout, saved_ranks), Each(IsOk()));
    ASSERT_OK_AND_ASSIGN(OpenedCheckpoint opened, OpenLatest(fs, "/run"));
    EXPECT_EQ(opened.tensors->manifest().size(), state->manifest().size());
    for (const NamedLayout& loaded : kLayouts) {
      for (const int loaded_ranks : kWorldSizes) {
        for (int rank = 0; rank < loaded_ranks; ++rank) {
          SCOPED_TRACE(absl::StrCat(saved_ranks, " ranks to ", loaded.name, " ", rank, " of ", loaded_ranks));
          RankSink sink(state->manifest(), loaded.layout, rank, loaded_ranks, 100);
          ASSERT_OK(Restore(opened, sink, {}));
          ASSERT_EQ(sink.Difference(*state), "");
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Layouts, ReshardTest, ::testing::ValuesIn(kLayouts),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(DistributedFormatTest, EqualStatesGiveEqualCheckpoints) {
  const std::unique_ptr<MemorySource> state = SmallState(7);
  std::vector<std::string> identities;
  for (int i = 0; i < 2; ++i) {
    MemoryFileSystem fs;
    ASSERT_THAT(Save(fs, "/run", *state, TensorParallelZero, 4), Each(IsOk()));
    ASSERT_OK_AND_ASSIGN(const OpenedCheckpoint opened, OpenLatest(fs, "/run"));
    identities.push_back(opened.sha256);
  }

  EXPECT_EQ(identities[0].size(), 64u);
  EXPECT_EQ(identities[0], identities[1]);
}

TEST(DistributedFormatTest, StrictlyCheckedHeadersAgreeWithTheRecords) {
  const std::unique_ptr<MemorySource> state = SmallState(7);
  MemoryFileSystem fs;
  ASSERT_THAT(Save(fs, "/run", *state, Flat, 3), Each(IsOk()));
  LoadOptions options;
  options.strict = true;

  EXPECT_OK(OpenLatest(fs, "/run", options));
}

TEST(DistributedFormatTest, RandomStatesOfAllRanksTravel) {
  const std::unique_ptr<MemorySource> state = SmallState(7);
  MemoryFileSystem fs;
  const auto statuses = RunJob(3, [&](std::unique_ptr<Coordinator> coordinator) {
    RankSource mine(*state, Rows, coordinator->rank(), 3);
    CheckpointMetadata metadata = MetadataOf(4);
    (*metadata.mutable_training()->mutable_rng_states())[absl::StrCat("rank-", coordinator->rank())] = "seed";
    return CheckpointRoot(fs, "/run").Save(DistributedOptions(*coordinator), metadata, mine).status();
  });
  ASSERT_THAT(statuses, Each(IsOk()));

  ASSERT_OK_AND_ASSIGN(const OpenedCheckpoint opened, OpenLatest(fs, "/run"));

  EXPECT_EQ(opened.metadata.training().step(), 4);
  EXPECT_EQ(opened.metadata.training().rng_states().size(), 3u);
}

TEST(DistributedFormatTest, ReplicasAreWrittenOnceAndByAll) {
  MemorySource state;
  AddRandom("w", DType::kF32, {1024, 1024}, 1, &state);
  MemoryFileSystem fs;
  ASSERT_THAT(Save(fs, "/run", state, Replicated, 4), Each(IsOk()));

  int64_t least = INT64_MAX;
  int64_t most = 0;
  int64_t total = 0;
  for (int rank = 0; rank < 4; ++rank) {
    ASSERT_OK_AND_ASSIGN(const FileInfo info,
                         fs.Stat(absl::StrCat("/run/step-00000001/rank-0000", rank, "-of-00004.safetensors")));
    least = std::min(least, info.size_bytes);
    most = std::max(most, info.size_bytes);
    total += info.size_bytes;
  }
  EXPECT_LE(total, (4 << 20) + 4 * 8192);
  EXPECT_LE(static_cast<double>(most) / least, 1.05);
}

TEST(DistributedFormatTest, RanksThatDisagreeAllLearnIt) {
  const std::unique_ptr<MemorySource> state = SmallState(7);
  MemorySource other;
  AddRandom("decoder.0.weight", DType::kBF16, {4}, 1, &other);
  MemoryFileSystem fs;

  const auto statuses = RunJob(3, [&](std::unique_ptr<Coordinator> coordinator) {
    RankSource mine(coordinator->rank() == 1 ? other : *state, Replicated, 0, 1);
    return CheckpointRoot(fs, "/run").Save(DistributedOptions(*coordinator), MetadataOf(1), mine).status();
  });

  EXPECT_THAT(statuses, Each(IsKind(ErrorKind::kShape, HasSubstr("decoder.0.weight"))));
  EXPECT_THAT(CheckpointRoot(fs, "/run").List().value(), ::testing::IsEmpty());
}

std::unique_ptr<CheckpointFormat> NewOneRankFormat() { return std::make_unique<OneRankFormat>(/*external=*/false); }
WAYPOINT_REGISTER(CheckpointFormat, "one_rank", NewOneRankFormat);

TEST(DistributedFormatTest, FormatsOfOneRankRefuseAJobOfMany) {
  const std::unique_ptr<MemorySource> state = SmallState(7);
  MemoryFileSystem fs;

  const auto statuses = RunJob(2, [&](std::unique_ptr<Coordinator> coordinator) {
    RankSource mine(*state, Rows, coordinator->rank(), 2);
    CheckpointerOptions options = DistributedOptions(*coordinator);
    options.format = "one_rank";
    return CheckpointRoot(fs, "/run").Save(options, MetadataOf(1), mine).status();
  });

  EXPECT_THAT(statuses, Each(IsKind(ErrorKind::kUnsupported, HasSubstr("this job has 2"))));
}

// 48 MiB: large beside chunks and pages, as real tensors are.
std::unique_ptr<MemorySource> LargeState() {
  auto state = std::make_unique<MemorySource>();
  AddRandom("a", DType::kF32, {384, 16384}, 1, state.get());
  AddRandom("b", DType::kBF16, {384, 32768}, 2, state.get());
  return state;
}

TEST(BytesReadTest, TheSameLayoutReadsWhatItHolds) {
  const std::unique_ptr<MemorySource> state = LargeState();
  for (const NamedLayout& layout : kLayouts) {
    MemoryFileSystem fs;
    ASSERT_THAT(Save(fs, "/run", *state, layout.layout, 2), Each(IsOk()));
    for (int rank = 0; rank < 2; ++rank) {
      EXPECT_LE(ReadRatio(fs, "/run", *state, layout.layout, rank, 2), 1.02) << layout.name;
    }
  }
}

TEST(BytesReadTest, OtherRowsAreReadAlmostAlone) {
  const std::unique_ptr<MemorySource> state = LargeState();
  for (const auto& [saved, loaded] : {std::pair(4, 6), std::pair(3, 2), std::pair(1, 4)}) {
    MemoryFileSystem fs;
    ASSERT_THAT(Save(fs, "/run", *state, Rows, saved), Each(IsOk()));
    for (int rank = 0; rank < loaded; ++rank) {
      EXPECT_LE(ReadRatio(fs, "/run", *state, Rows, rank, loaded), 1.10) << saved << " to " << loaded;
    }
  }
}

TEST(BytesReadTest, ColumnsOfRowsAreReadAlmostAlone) {
  const std::unique_ptr<MemorySource> state = LargeState();
  MemoryFileSystem fs;
  ASSERT_THAT(Save(fs, "/run", *state, Rows, 3), Each(IsOk()));
  for (const bool verify_digests : {false, true}) {
    LoadOptions options;
    options.verify_digests = verify_digests;
    for (int rank = 0; rank < 4; ++rank) {
      EXPECT_LE(ReadRatio(fs, "/run", *state, Columns, rank, 4, options), 1.10);
    }
  }
}

// What is read without a check is counted, and who pays for the rest of the chunks finds the damage.
TEST(BytesReadTest, DamagedColumnsAreFoundByWhoReadsWholeChunks) {
  const std::unique_ptr<MemorySource> state = LargeState();
  MemoryFileSystem fs;
  ASSERT_THAT(Save(fs, "/run", *state, Rows, 1), Each(IsOk()));
  const std::string path = "/run/step-00000001/rank-00000-of-00001.safetensors";
  ASSERT_OK_AND_ASSIGN(std::string bytes, ReadSmallFile(fs, path, 1 << 28, "test_bytes"));
  // The first column of the last row of "a", of which rank 0 takes every row's begin.
  const size_t at = bytes.size() - (size_t{24} << 20) - (size_t{64} << 10) + 5;
  bytes[at] = static_cast<char>(bytes[at] ^ 1);
  ASSERT_OK(fs.RemoveFile(path));
  ASSERT_OK(WriteSmallFile(fs, path, bytes));

  for (const bool check_all : {false, true}) {
    LoadOptions options;
    if (check_all) {
      options.max_over_read = std::numeric_limits<double>::infinity();
    }
    ASSERT_OK_AND_ASSIGN(OpenedCheckpoint opened, OpenLatest(fs, "/run", options));
    RankSink sink(state->manifest(), Columns, 0, 4);
    const auto stats = Restore(opened, sink, {});
    if (check_all) {
      EXPECT_THAT(stats, IsKind(ErrorKind::kChecksum, HasSubstr("\"a")));
    } else {
      ASSERT_OK(stats);
      EXPECT_GE(stats->source.bytes_unchecked, sink.bytes() / 2);
      EXPECT_NE(sink.Difference(*state), "");
    }
  }
}

TEST(BytesReadTest, NativeIsReadByItsBoxes) {
  const std::unique_ptr<MemorySource> state = LargeState();
  MemoryFileSystem fs;
  CheckpointerOptions native;
  ASSERT_OK(CheckpointRoot(fs, "/run").Save(native, MetadataOf(1), *state));
  for (int rank = 0; rank < 4; ++rank) {
    EXPECT_LE(ReadRatio(fs, "/run", *state, Rows, rank, 4), 1.10);
  }
}

}  // namespace
}  // namespace waypoint
