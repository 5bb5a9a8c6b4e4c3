// Formats of PyTorch's files, written by many ranks: the same bytes as of one rank, within the bound, and an error of
// any rank is everybody's.

#include <tuple>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/checkpoint/format/shared/shared_job.h"
#include "tests/testing/decoder_state.h"

namespace waypoint::models {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

struct Target {
  const char* name;
  const char* format;
  FormatOptionValues values;
  DType dtype = DType::kInvalid;
  bool tied = false;

  friend std::ostream& operator<<(std::ostream& out, const Target& target) { return out << target.name; }
};

const Target kTargets[] = {
    {"reference", "reference", {{"model-parallel", "1"}}},
    {"reference_2_tables", "reference", {{"model-parallel", "2"}, {"emit-rope-freqs", "true"}}},
    {"reference_repeated_heads", "reference", {{"model-parallel", "4"}}, DType::kF32},
    {"fairseq2", "fairseq2", {}, DType::kF32},
    {"fairseq2_2_tied", "fairseq2", {{"model-parallel", "2"}}, DType::kInvalid, true},
    {"bin", "llama", {{"weights", "bin"}}, DType::kF32},
    {"bin_tied", "llama", {{"weights", "bin"}}, DType::kInvalid, true},
};

WriteOptions OptionsOf(const Target& target) {
  WriteOptions options;
  options.format = target.format;
  options.save.format_options = target.values;
  options.save.weights_dtype = target.dtype;
  options.save.max_shard_bytes = 1'500'000;
  options.transfer.threads = 2;
  return options;
}

// 5 MB: several rounds under the smallest bound.
DecoderState NewState(bool tied) {
  DecoderConfig config = TinyConfig();
  config.set_hidden_size(256);
  config.set_vocab_size(1000);
  config.set_tied_embedding_weight(tied);
  config.mutable_decoder()->set_num_blocks(3);
  Attention& attention = AttentionOf(config);
  attention.set_heads(8);
  attention.set_head_groups(2);
  attention.set_head_size(32);
  config.mutable_decoder()->mutable_fixed()->mutable_mlp()->mutable_dense()->set_intermediate_size(512);
  return NewDecoderState(config, 5, DType::kBF16, /*optimizer_state=*/false);
}

class SharedTorchFilesTest : public testing::TestWithParam<std::tuple<Target, int>> {};

TEST_P(SharedTorchFilesTest, FilesOfAnyLayoutAreThoseOfOneRank) {
  const auto& [target, world_size] = GetParam();
  const DecoderState state = NewState(target.tied);
  const Model model = {state.metadata, state.tensors.get(), {}};
  const DirectoryContents one = SavedByOne(model, OptionsOf(target));
  ASSERT_GE(one.size(), 2u);

  for (const NamedLayout& layout : kLayouts) {
    SCOPED_TRACE(layout.name);
    const DirectoryContents many = SavedByMany(model, OptionsOf(target), layout.layout, world_size);

    ASSERT_EQ(many.size(), one.size());
    for (const auto& [name, bytes] : one) {
      // Not printed: megabytes.
      EXPECT_TRUE(many.count(name) == 1 && many.at(name) == bytes) << name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Jobs, SharedTorchFilesTest,
                         ::testing::Combine(::testing::ValuesIn(kTargets), ::testing::Values(2, 3)),
                         [](const auto& info) {
                           return absl::StrCat(std::get<0>(info.param).name, "_by_", std::get<1>(info.param));
                         });

// Three ranks that save as `reference` to one disk, and what can go wrong on one of them.
class SharedTorchFilesErrorTest : public testing::Test {
 protected:
  static constexpr int kRanks = 3;

  // Called on every rank, may change what is its own.
  using Change = std::function<void(int rank, WriteOptions* options)>;

  std::vector<absl::Status> Save(
      SharedJob& job, FileSystem& rank_0_disk, Layout layout, const Change& change = [](int, WriteOptions*) {},
      const std::function<std::unique_ptr<TensorSource>(int rank)>& source = nullptr) {
    return job.Run([&](int rank) {
      RankSource held(*state_.tensors, layout, rank, kRanks);
      const std::unique_ptr<TensorSource> other = source == nullptr ? nullptr : source(rank);
      WriteOptions options = OptionsOf(kTargets[1]);
      options.save = job.Options(rank, options.save);
      change(rank, &options);
      return WriteCheckpoint(rank == 0 ? rank_0_disk : disk_, "/out", options, state_.metadata,
                             other == nullptr ? held : *other, {})
          .status();
    });
  }

  void ExpectNamed(const std::vector<absl::Status>& statuses, int culprit, const std::string& why) {
    for (int rank = 0; rank < kRanks; ++rank) {
      if (rank != culprit) {
        EXPECT_THAT(statuses[rank],
                    IsKind(ErrorKind::kRank, AllOf(HasSubstr(absl::StrCat("rank ", culprit)), HasSubstr(why))))
            << rank;
      }
    }
  }

  const DecoderState state_ = NewState(false);
  MemoryFileSystem disk_;
};

TEST_F(SharedTorchFilesErrorTest, ADiskThatIsFullAtAnyCallIsToldToAllAndNothingIsPublished) {
  for (const Layout layout : {Columns, Replicated}) {
    int64_t full = 0;
    for (int64_t call = 1;; call += 4) {
      FaultFileSystem fs(disk_, Fault::kFullDisk, call);
      SharedJob job(NewThreadCoordinators(kRanks));

      const auto statuses = Save(job, fs, layout);

      if (!fs.fired()) {
        EXPECT_THAT(statuses, Each(IsOk()));
        ASSERT_OK(RemoveTree(disk_, "/out"));
        break;
      }
      SCOPED_TRACE(call);
      ++full;
      EXPECT_THAT(statuses[0], IsKind(ErrorKind::kNoSpace));
      ExpectNamed(statuses, 0, "No space left");
      EXPECT_THAT(disk_.List("/").value(), IsEmpty());
    }
    EXPECT_GT(full, 4);
  }
}

TEST_F(SharedTorchFilesErrorTest, ARankThatDiesAtAnyWordIsNamedAndOnlyWholeOutputIsPublished) {
  const DirectoryContents whole = SavedByOne({state_.metadata, state_.tensors.get(), {}}, OptionsOf(kTargets[1]));
  for (const int dying : {0, 2}) {
    int deaths = 0;
    for (int64_t words = 0;; ++words) {
      SCOPED_TRACE(absl::StrCat("rank ", dying, " after ", words));
      std::vector<std::unique_ptr<Coordinator>> coordinators;
      for (std::unique_ptr<Coordinator>& rank : NewThreadCoordinators(kRanks)) {
        int64_t left = rank->rank() == dying ? words : int64_t{1} << 40;
        coordinators.push_back(
            std::make_unique<MortalCoordinator>(std::move(rank), [left]() mutable { return left-- <= 0; }));
      }
      SharedJob job(std::move(coordinators));

      const auto statuses = Save(job, disk_, Columns);

      if (statuses[dying].ok()) {
        EXPECT_THAT(statuses, Each(IsOk()));
        break;
      }
      ++deaths;
      ExpectNamed(statuses, dying, "");
      if (Exists(disk_, "/out").value()) {
        EXPECT_TRUE(ReadContents(disk_, "/out") == whole);
        ASSERT_OK(RemoveTree(disk_, "/out"));
      }
    }
    EXPECT_GT(deaths, 10);
    ASSERT_OK(RemoveTree(disk_, "/out"));
  }
}

TEST_F(SharedTorchFilesErrorTest, AReadThatFailsOnOneRankIsToldToAll) {
  class Failing : public RankSource {
   public:
    using RankSource::RankSource;
    absl::Status Read(absl::Span<const ReadRequest>) override { return MakeError(ErrorKind::kIo, "device lost"); }
  };
  SharedJob job(NewThreadCoordinators(kRanks));

  const auto statuses = Save(
      job, disk_, Rows, [](int, WriteOptions*) {},
      [this](int rank) {
        return rank == 1 ? std::make_unique<Failing>(*state_.tensors, Rows, rank, kRanks) : nullptr;
      });

  EXPECT_THAT(statuses[1], IsKind(ErrorKind::kIo, HasSubstr("device lost")));
  ExpectNamed(statuses, 1, "device lost");
  EXPECT_THAT(disk_.List("/").value(), IsEmpty());
}

TEST_F(SharedTorchFilesErrorTest, WhatOneRankRefusesIsQuotedByAll) {
  SharedJob job(NewThreadCoordinators(kRanks));

  const auto statuses = Save(job, disk_, Rows, [](int rank, WriteOptions* options) {
    if (rank == 2) {
      options->save.format_options["model-parallel"] = "many";
    }
  });

  EXPECT_THAT(statuses[2], IsKind(ErrorKind::kRequest, HasSubstr("model-parallel")));
  ExpectNamed(statuses, 2, "model-parallel");
  EXPECT_THAT(disk_.List("/").value(), IsEmpty());
}

TEST_F(SharedTorchFilesErrorTest, OneRankCanCancel) {
  for (const Layout layout : {Rows, Replicated}) {
    SharedJob job(NewThreadCoordinators(kRanks));

    const auto statuses = Save(job, disk_, layout, [](int rank, WriteOptions* options) {
      options->transfer.cancelled = [rank] { return rank == 1; };
    });

    EXPECT_EQ(statuses[1].code(), absl::StatusCode::kCancelled);
    ExpectNamed(statuses, 1, "cancelled");
    EXPECT_THAT(disk_.List("/").value(), IsEmpty());
  }
}

TEST_F(SharedTorchFilesErrorTest, WithoutAnExchangeOnlyRanksThatHaveAllCanSave) {
  const auto without = [](int, WriteOptions* options) { options->save.exchange = nullptr; };
  SharedJob parts(NewThreadCoordinators(kRanks));
  EXPECT_THAT(Save(parts, disk_, Rows, without), Each(IsKind(ErrorKind::kRequest, HasSubstr("no exchange"))));
  EXPECT_THAT(disk_.List("/").value(), IsEmpty());

  SharedJob replicas(NewThreadCoordinators(kRanks));
  EXPECT_THAT(Save(replicas, disk_, Replicated, without), Each(IsOk()));
  EXPECT_TRUE(Exists(disk_, "/out").value());
}

}  // namespace
}  // namespace waypoint::models
