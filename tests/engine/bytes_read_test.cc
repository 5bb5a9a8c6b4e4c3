// What ranks of a trainer read of the checkpoints that they start from, with the options that the trainer has: counted
// under the library, headers and manifests included, over the bytes that the rank holds.

#include <functional>
#include <limits>

#include "ATen/ATen.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/checkpointer/checkpointer.h"
#include "checkpoint/torch/tensor_bridge.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/decoder/sharding.h"
#include "tests/checkpoint/format/distributed/job.h"
#include "tests/models/decoder/tiny_config.h"
#include "tests/testing/counting_file_system.h"
#include "tests/testing/status_matchers.h"

namespace waypoint::engine {
namespace {

using ::testing::Each;

// 27 million parameters whose tensors are of 2.4 to 19 MB: small beside blocks of I/O, and large beside chunks.
models::DecoderConfig Config() {
  models::DecoderConfig config = models::TinyConfig();
  config.set_hidden_size(768);
  config.set_vocab_size(3072);
  config.mutable_decoder()->set_num_blocks(2);
  models::Attention& attention = models::AttentionOf(config);
  attention.set_heads(12);
  attention.set_head_groups(6);
  attention.set_head_size(64);
  config.mutable_decoder()->mutable_fixed()->mutable_mlp()->mutable_dense()->set_intermediate_size(3072);
  return config;
}

enum class Cut { kData, kTensor, kFlat };

std::vector<int64_t> Sizes(const Dims& dims) { return {dims.begin(), dims.end()}; }

at::Tensor PartOf(at::Tensor tensor, const Box& box) {
  for (int d = 0; d < box.rank(); ++d) {
    tensor = tensor.narrow(d, box.offsets[d], box.sizes[d]);
  }
  return tensor;
}

// The state of a rank, weights and moments, as parameter_shards.h has it: data ranks hold everything, tensor ranks
// their boxes, flat is ZeRO's.
LiveState StateOf(Cut cut, int rank, int ranks, bool moments) {
  LiveState state;
  models::DecoderPart part;
  if (cut == Cut::kTensor) {
    part.tensor_index = rank;
    part.tensor_size = ranks;
  }
  for (const std::string& suffix : {std::string(), std::string("/exp_avg")}) {
    if (!suffix.empty() && !moments) {
      continue;
    }
    for (const models::ShardedParameter& parameter : models::ShardParameters(Config(), part)) {
      const std::string name = parameter.name + suffix;
      if (cut == Cut::kFlat) {
        const int64_t elements = NumElements(parameter.shape);
        for (Box& box : FlatRangeToBoxes(parameter.shape, elements * rank / ranks, elements * (rank + 1) / ranks)) {
          state.push_back({name, at::zeros(Sizes(box.sizes)), parameter.shape, box});
        }
        continue;
      }
      const at::Tensor tensor = at::zeros(Sizes(parameter.local_shape));
      int64_t row = 0;
      for (const Box& box : parameter.boxes) {
        state.push_back({name, tensor.narrow(0, row, box.sizes[0]), parameter.shape, box});
        row += box.sizes[0];
      }
    }
  }
  return state;
}

// All values of the state, made once.
const std::map<std::string, at::Tensor>& Values() {
  static const auto* const values = [] {
    auto* made = new std::map<std::string, at::Tensor>;
    for (const LiveTensor& whole : StateOf(Cut::kData, 0, 1, true)) {
      (*made)[whole.name] = at::rand(whole.tensor.sizes());
    }
    return made;
  }();
  return *values;
}

CheckpointMetadata Metadata() {
  CheckpointMetadata metadata;
  metadata.mutable_model_config()->PackFrom(Config());
  metadata.mutable_training()->set_step(1);
  return metadata;
}

void SaveDistributed(FileSystem& fs, Cut cut, int ranks) {
  const auto statuses = RunJob(ranks, [&](std::unique_ptr<Coordinator> coordinator) {
    const LiveState state = StateOf(cut, coordinator->rank(), ranks, true);
    for (const LiveTensor& live : state) {
      live.tensor.copy_(PartOf(Values().at(live.name), live.box));
    }
    const auto source = NewLiveSource(state);
    WAYPOINT_RETURN_IF_ERROR(source.status());
    WriteOptions options;
    options.format = "distributed";
    options.save.coordinator = coordinator.get();
    return WriteCheckpoint(fs, "/saved", options, Metadata(), **source, {}).status();
  });
  ASSERT_THAT(statuses, Each(IsOk()));
}

void SaveWhole(FileSystem& fs, const std::string& format, bool moments) {
  LiveState state;
  for (const auto& [name, tensor] : Values()) {
    if (moments || !absl::StrContains(name, "/")) {
      state.push_back({name, tensor});
    }
  }
  ASSERT_OK_AND_ASSIGN(const auto source, NewLiveSource(state));
  WriteOptions options;
  options.format = format;
  ASSERT_OK(WriteCheckpoint(fs, "/saved", options, Metadata(), *source, {}).status());
}

struct Load {
  double ratio = 0;      // bytes read over bytes held
  double unchecked = 0;  // share of the bytes held
  double large = 0;      // share of the bytes read that came in calls of 1 MiB and more
  int64_t calls = 0;
};

using Filter = std::function<bool(const std::string& name)>;

Load LoadRank(CountingFileSystem& fs, LiveState state, const Filter& wanted = nullptr,
              const LoadOptions& options = {}) {
  if (wanted) {
    state.erase(std::remove_if(state.begin(), state.end(), [&](const LiveTensor& live) { return !wanted(live.name); }),
                state.end());
  }
  Load load;
  fs.Reset();
  const auto format = FindFormat(fs, "/saved", "auto");
  EXPECT_OK(format.status());
  auto opened = (*format)->Open(fs, "/saved", options);
  EXPECT_OK(opened.status());
  auto sink = NewLiveSink(state);
  EXPECT_OK(sink.status());
  const auto stats = Restore(*opened, **sink, {});
  EXPECT_OK(stats.status());
  EXPECT_LE(stats->peak_bytes_in_flight, TransferOptions().max_bytes_in_flight);
  double held = 0;
  for (const LiveTensor& live : state) {
    EXPECT_TRUE(live.tensor.equal(PartOf(Values().at(live.name), live.box))) << live.name << live.box.ToString();
    held += static_cast<double>(live.tensor.nbytes());
  }
  load.ratio = fs.bytes / held;
  load.unchecked = stats->source.bytes_unchecked / held;
  load.large = static_cast<double>(fs.large_bytes) / fs.bytes;
  load.calls = fs.calls;
  // What the source says of itself is the truth, but for headers and manifests.
  EXPECT_LE(stats->source.bytes_read, fs.bytes);
  EXPECT_GE(stats->source.bytes_read, fs.bytes - (1 << 20));
  return load;
}

bool IsColumns(const std::string& name) {
  return absl::StrContains(name, ".dense.weight") || absl::StrContains(name, ".layer_2.weight");
}
bool IsRows(const std::string& name) { return !IsColumns(name); }

// Rows, columns and all of a tensor rank's state, of a checkpoint that others wrote.
void ExpectTensorRanksReadLittleElse(CountingFileSystem& fs, int ranks, bool moments) {
  for (int rank = 0; rank < ranks; ++rank) {
    const LiveState state = StateOf(Cut::kTensor, rank, ranks, moments);
    EXPECT_LE(LoadRank(fs, state).ratio, 1.10) << rank;
    EXPECT_LE(LoadRank(fs, state, IsRows).ratio, 1.10) << rank;
    EXPECT_LE(LoadRank(fs, state, IsColumns).ratio, 1.25) << rank;
    const auto is_key_value = [](const std::string& name) { return absl::StrContains(name, "key_value"); };
    EXPECT_LE(LoadRank(fs, state, is_key_value).ratio, 1.15) << rank;  // a few MB, so that headers and the like count
  }
}

TEST(BytesReadTest, TheFilterKnowsTheColumns) {
  int columns = 0;
  for (const LiveTensor& live : StateOf(Cut::kTensor, 0, 3, false)) {
    const bool cut = live.box.rank() == 2 && live.box.sizes[1] < live.global_shape[1];
    EXPECT_EQ(IsColumns(live.name), cut) << live.name;
    columns += cut ? 1 : 0;
  }
  EXPECT_EQ(columns, 4);
}

TEST(BytesReadTest, DataRanksOfTheSameLayoutReadAndCheckWhatTheyHold) {
  CountingFileSystem fs;
  SaveDistributed(fs, Cut::kData, 3);
  const Load load = LoadRank(fs, StateOf(Cut::kData, 0, 3, true));
  EXPECT_LE(load.ratio, 1.02);
  EXPECT_EQ(load.unchecked, 0);
  EXPECT_GE(load.large, 0.95);
}

TEST(BytesReadTest, TensorRanksOfTheSameLayoutReadWhatTheyHold) {
  CountingFileSystem fs;
  SaveDistributed(fs, Cut::kTensor, 3);
  for (int rank = 0; rank < 3; ++rank) {
    const Load load = LoadRank(fs, StateOf(Cut::kTensor, rank, 3, true));
    EXPECT_LE(load.ratio, 1.02) << rank;
    EXPECT_LE(load.unchecked, 0.001) << rank;  // norms, which some other rank wrote among its own
  }
}

TEST(BytesReadTest, ShardsOfTheSameLayoutReadAndCheckWhatTheyHold) {
  CountingFileSystem fs;
  SaveDistributed(fs, Cut::kFlat, 3);
  for (int rank = 0; rank < 3; ++rank) {
    const Load load = LoadRank(fs, StateOf(Cut::kFlat, rank, 3, true));
    EXPECT_LE(load.ratio, 1.02) << rank;
    EXPECT_EQ(load.unchecked, 0) << rank;
  }
}

TEST(BytesReadTest, TensorRanksAfterDataRanks) {
  CountingFileSystem fs;
  SaveDistributed(fs, Cut::kData, 3);
  ExpectTensorRanksReadLittleElse(fs, 3, true);
  for (int rank = 0; rank < 2; ++rank) {
    EXPECT_LE(LoadRank(fs, StateOf(Cut::kFlat, rank, 2, true)).ratio, 1.10) << rank;
  }
}

TEST(BytesReadTest, OtherRanksAfterTensorRanks) {
  CountingFileSystem fs;
  SaveDistributed(fs, Cut::kTensor, 3);
  EXPECT_LE(LoadRank(fs, StateOf(Cut::kData, 0, 1, true)).ratio, 1.02);
  ExpectTensorRanksReadLittleElse(fs, 2, true);
  for (int rank = 0; rank < 2; ++rank) {
    EXPECT_LE(LoadRank(fs, StateOf(Cut::kFlat, rank, 2, true)).ratio, 1.10) << rank;
  }
}

TEST(BytesReadTest, TensorRanksOfANativeCheckpoint) {
  CountingFileSystem fs;
  SaveWhole(fs, "native", true);
  ExpectTensorRanksReadLittleElse(fs, 3, true);
}

TEST(BytesReadTest, TensorRanksOfAHuggingFaceDirectory) {
  CountingFileSystem fs;
  SaveWhole(fs, "llama", false);
  ExpectTensorRanksReadLittleElse(fs, 3, false);
}

// Columns can be checked only with what lies between them: at a price, and only who asks for it pays it.
TEST(BytesReadTest, ColumnsAreCheckedByWhoPaysForIt) {
  CountingFileSystem fs;
  SaveDistributed(fs, Cut::kData, 3);
  const LiveState state = StateOf(Cut::kTensor, 0, 3, true);
  LoadOptions options;
  options.max_over_read = std::numeric_limits<double>::infinity();

  const Load checked = LoadRank(fs, state, IsColumns, options);
  EXPECT_EQ(checked.unchecked, 0);
  EXPECT_GE(checked.ratio, 2.5);
  EXPECT_LE(checked.ratio, 3.1);  // once
  EXPECT_GE(LoadRank(fs, state, IsColumns).unchecked, 0.5);
}

// Conversions have the whole bandwidth of the disk to themselves: few large reads are what they want.
TEST(BytesReadTest, ColumnsComeInFewPiecesForWhoPaysForIt) {
  CountingFileSystem fs;
  SaveWhole(fs, "llama", false);
  const LiveState state = StateOf(Cut::kTensor, 1, 3, false);
  LoadOptions options;
  options.max_over_read = std::numeric_limits<double>::infinity();

  EXPECT_LE(LoadRank(fs, state, IsColumns, options).calls, 100);
  EXPECT_GE(LoadRank(fs, state, IsColumns).calls, 3000);
}

// What conversions and whole loads do: few calls, large ones, every byte once.
TEST(BytesReadTest, WholeReadsAreFewAndLarge) {
  for (const std::string format : {"native", "llama"}) {
    CountingFileSystem fs;
    SaveWhole(fs, format, false);
    const Load load = LoadRank(fs, StateOf(Cut::kData, 0, 1, false));
    EXPECT_LE(load.ratio, 1.005) << format;
    EXPECT_GE(load.large, 0.98) << format;
    EXPECT_EQ(load.unchecked, 0) << format;

    fs.Reset();
    ASSERT_OK_AND_ASSIGN(CheckpointFormat * found, FindFormat(fs, "/saved", "auto"));
    ASSERT_OK_AND_ASSIGN(OpenedCheckpoint opened, found->Open(fs, "/saved", {}));
    WriteOptions options;
    options.format = format == "native" ? "llama" : "native";
    ASSERT_OK_AND_ASSIGN(const TransferStats stats,
                         WriteCheckpoint(fs, "/converted", options, opened.metadata, *opened.tensors, opened.assets));
    EXPECT_LE(fs.bytes, stats.bytes * 1.005) << format;
    EXPECT_GE(fs.large_bytes, stats.bytes * 0.98) << format;
    EXPECT_EQ(stats.source.bytes_unchecked, 0) << format;
  }
}

}  // namespace
}  // namespace waypoint::engine
