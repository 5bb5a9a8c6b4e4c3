#include "checkpoint/tensor/transfer.h"

#include <atomic>

#include "gmock/gmock.h"
#include "tests/testing/random_sink.h"
#include "tests/testing/random_tensors.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

// Another source that needs scratch, fails or counts.
class WatchedSource : public TensorSource {
 public:
  explicit WatchedSource(TensorSource* inner) : inner_(*inner) {}
  const Manifest& manifest() const override { return inner_.manifest(); }
  absl::Status Read(absl::Span<const ReadRequest> requests) override {
    if (reads++ == fail_at_read) {
      return MakeError(ErrorKind::kIo, "the disk is gone");
    }
    return inner_.Read(requests);
  }
  int64_t ScratchBytes(int64_t block_bytes) const override { return scratch_factor * block_bytes; }

  std::atomic<int64_t> reads{0};
  int64_t fail_at_read = -1;
  int64_t scratch_factor = 0;

 private:
  TensorSource& inner_;
};

int64_t LargestBlock(const TensorSink& sink) {
  int64_t largest = 0;
  for (int64_t i = 0; i < sink.num_blocks(); ++i) {
    largest = std::max(largest, sink.block(i).bytes);
  }
  return largest;
}

TransferOptions Threads(int threads) {
  TransferOptions options;
  options.threads = threads;
  return options;
}

TEST(TransferTest, AnyBlocksOnAnyThreadsMoveEveryByte) {
  RandomGeometry random(41);
  for (int round = 0; round < 200; ++round) {
    const auto source = RandomTensors(static_cast<int>(random.Pick(0, 12)), &random);
    RandomSink sink(source->manifest(), &random);
    TransferOptions options = Threads(round % 4 + 1);

    ASSERT_OK_AND_ASSIGN(const TransferStats stats, Transfer(*source, sink, options));

    EXPECT_EQ(sink.finished, 1);
    EXPECT_TRUE(sink.EveryBlockCameOnce());
    EXPECT_EQ(stats.blocks, sink.num_blocks());
    EXPECT_GE(stats.bytes, source->manifest().total_bytes());
    for (int64_t i = 0; i < source->manifest().size(); ++i) {
      ASSERT_OK_AND_ASSIGN(const std::vector<char> wanted, ReadWhole(*source, i));
      ASSERT_EQ(sink.bytes(i), wanted);
    }
  }
}

TEST(TransferTest, SinkTakesWhatItWants) {
  RandomGeometry random(42);
  const auto source = RandomTensors(6, &random);
  Manifest wanted;
  for (const int64_t i : {4, 1}) {
    ASSERT_OK(wanted.Add(source->manifest()[i]));
  }
  RandomSink sink(wanted, &random);

  ASSERT_OK(Transfer(*source, sink, {}));

  EXPECT_EQ(sink.bytes(0), ReadWhole(*source, 4).value());
  EXPECT_EQ(sink.bytes(1), ReadWhole(*source, 1).value());
}

TEST(TransferTest, AllMisfitsAreInOneError) {
  RandomGeometry random(43);
  MemorySource source;
  source.Add("same", DType::kF32, {2}, std::vector<float>{1, 2});
  source.Add("shape", DType::kF32, {2}, std::vector<float>{1, 2});
  source.Add("type", DType::kF32, {2}, std::vector<float>{1, 2});
  Manifest wanted;
  ASSERT_OK(wanted.Add({"same", DType::kF32, {2}, {}}));
  ASSERT_OK(wanted.Add({"gone", DType::kF32, {2}, {}}));
  ASSERT_OK(wanted.Add({"shape", DType::kF32, {2, 1}, {}}));
  ASSERT_OK(wanted.Add({"type", DType::kI32, {2}, {}}));
  RandomSink sink(wanted, &random);

  EXPECT_THAT(Transfer(source, sink, {}),
              IsKind(ErrorKind::kMissing, AllOf(HasSubstr("3 tensors"), HasSubstr("\"gone\" is missing"),
                                                HasSubstr("\"shape\": shape [2], wanted [2, 1]"),
                                                HasSubstr("\"type\": F32, wanted I32"), Not(HasSubstr("\"same\"")))));
  EXPECT_EQ(sink.finished, 0);
}

TEST(TransferTest, KindIsThatOfTheFirstMisfit) {
  RandomGeometry random(44);
  MemorySource source;
  source.Add("a", DType::kF32, {2}, std::vector<float>{1, 2});
  for (const ErrorKind kind : {ErrorKind::kShape, ErrorKind::kDType}) {
    Manifest wanted;
    ASSERT_OK(wanted.Add({"a",
                          kind == ErrorKind::kShape ? DType::kF32 : DType::kBF16,
                          kind == ErrorKind::kShape ? Dims{3} : Dims{2},
                          {}}));
    RandomSink sink(wanted, &random);
    EXPECT_THAT(Transfer(source, sink, {}), IsKind(kind));
  }
}

TEST(TransferTest, TenMisfitsAreSpelledOut) {
  RandomGeometry random(45);
  MemorySource source;
  Manifest wanted;
  for (int i = 0; i < 12; ++i) {
    ASSERT_OK(wanted.Add({absl::StrCat("t", i), DType::kF32, {2}, {}}));
  }
  RandomSink sink(wanted, &random);
  EXPECT_THAT(
      Transfer(source, sink, {}),
      IsKind(ErrorKind::kMissing, AllOf(HasSubstr("12 tensors"), HasSubstr("\"t9\""), Not(HasSubstr("\"t10\"")))));
}

TEST(TransferTest, NoMoreBytesAreHeldThanAllowed) {
  RandomGeometry random(46);
  for (int round = 0; round < 60; ++round) {
    const auto tensors = RandomTensors(10, &random);
    WatchedSource source(tensors.get());
    source.scratch_factor = random.Pick(0, 2);
    RandomSink sink(source.manifest(), &random);
    const int64_t largest = LargestBlock(sink) * (1 + source.scratch_factor);
    for (const int64_t budget : {int64_t{1}, largest, largest + 1, 2 * largest, 3 * largest + 7}) {
      TransferOptions options = Threads(4);
      options.max_bytes_in_flight = budget;

      ASSERT_OK_AND_ASSIGN(const TransferStats stats, Transfer(source, sink, options));

      // A block that is larger than the budget is admitted alone.
      EXPECT_LE(stats.peak_bytes_in_flight, std::max(budget, largest));
    }
  }
}

TEST(TransferTest, AFailingSourceStopsTheTransfer) {
  RandomGeometry random(47);
  const auto tensors = RandomTensors(8, &random);
  for (int threads = 1; threads <= 4; ++threads) {
    for (int64_t k = 0;; ++k) {
      WatchedSource source(tensors.get());
      source.fail_at_read = k;
      RandomSink sink(source.manifest(), &random);
      if (k >= sink.num_blocks()) {
        break;
      }
      EXPECT_THAT(Transfer(source, sink, Threads(threads)), IsKind(ErrorKind::kIo, HasSubstr("the disk is gone")));
      EXPECT_EQ(sink.finished, 0);
      // Others may read on until the thread that failed has said so.
      EXPECT_TRUE(threads > 1 || source.reads == k + 1) << source.reads;
    }
  }
}

TEST(TransferTest, AFailingSinkStopsTheTransfer) {
  RandomGeometry random(48);
  const auto source = RandomTensors(8, &random);
  for (int threads = 1; threads <= 4; ++threads) {
    for (int64_t k = 0;; ++k) {
      RandomSink sink(source->manifest(), &random);
      sink.fail_at_write = k;
      if (k >= sink.num_blocks()) {
        break;
      }
      EXPECT_THAT(Transfer(*source, sink, Threads(threads)), IsKind(ErrorKind::kNoSpace));
      EXPECT_EQ(sink.finished, 0);
    }
  }
}

TEST(TransferTest, CancelStopsBetweenBlocks) {
  RandomGeometry random(49);
  const auto tensors = RandomTensors(12, &random);
  WatchedSource source(tensors.get());
  RandomSink sink(source.manifest(), &random);
  ASSERT_GT(sink.num_blocks(), 4);
  TransferOptions options = Threads(1);
  int polls = 0;
  options.cancelled = [&polls] { return polls++ == 3; };

  const auto stats = Transfer(source, sink, options);

  EXPECT_EQ(stats.status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(source.reads, 3);
  EXPECT_EQ(sink.finished, 0);
}

TEST(TransferTest, ProgressReachesTheTotal) {
  RandomGeometry random(50);
  const auto source = RandomTensors(12, &random);
  RandomSink sink(source->manifest(), &random);
  TransferOptions options = Threads(3);
  TransferProgress last;
  int calls = 0;
  options.progress = [&](const TransferProgress& progress) {
    EXPECT_GT(progress.bytes_done, last.bytes_done);
    last = progress;
    ++calls;
  };

  ASSERT_OK_AND_ASSIGN(const TransferStats stats, Transfer(*source, sink, options));

  EXPECT_EQ(calls, sink.num_blocks());
  EXPECT_EQ(last.bytes_done, last.bytes_total);
  EXPECT_EQ(last.bytes_done, stats.bytes);
}

TEST(TransferTest, NothingToMoveIsFinishedToo) {
  RandomGeometry random(51);
  MemorySource source;
  RandomSink sink(Manifest(), &random);
  ASSERT_OK_AND_ASSIGN(const TransferStats stats, Transfer(source, sink, {}));
  EXPECT_EQ(stats.bytes, 0);
  EXPECT_EQ(sink.finished, 1);
}

}  // namespace
}  // namespace waypoint
