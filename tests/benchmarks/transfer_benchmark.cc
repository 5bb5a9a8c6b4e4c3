// What moving bytes costs without a disk:  bazel run -c opt //tests/benchmarks:transfer_benchmark

#include <cstring>
#include <vector>

#include "benchmark/benchmark.h"
#include "checkpoint/base/digest.h"
#include "checkpoint/tensor/box.h"
#include "checkpoint/tensor/cast.h"
#include "checkpoint/tensor/tensor_sink.h"
#include "checkpoint/tensor/transfer.h"
#include "tests/testing/memory_source.h"

namespace waypoint {
namespace {

void CopyContiguous(benchmark::State& state) {
  const int64_t bytes = state.range(0);
  std::vector<char> from(bytes, 1), to(bytes, 2);
  const Dims sizes = {bytes / 2048, 1024};
  for (auto _ : state) {
    CopyStrided(StridedSpan::Contiguous(from.data(), 2, sizes), StridedSpan::Contiguous(to.data(), 2, sizes));
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * bytes);
}
BENCHMARK(CopyContiguous)->Arg(1 << 20)->Arg(8 << 20)->Arg(64 << 20);

// Columns of a matrix: runs of `range(0)` elements.
void CopyColumns(benchmark::State& state) {
  const int64_t columns = state.range(0);
  const int64_t rows = 4096;
  std::vector<char> from(rows * 4096 * 2, 1), to(rows * columns * 2, 2);
  const StridedSpan source = StridedSpan::Contiguous(from.data(), 2, {rows, 4096}).Narrow(1, 64, columns);
  const StridedSpan target = StridedSpan::Contiguous(to.data(), 2, {rows, columns});
  for (auto _ : state) {
    CopyStrided(source, target);
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * rows * columns * 2);
}
BENCHMARK(CopyColumns)->Arg(16)->Arg(256)->Arg(2048);

void CopyTransposed(benchmark::State& state) {
  const int64_t side = state.range(0);
  std::vector<char> from(side * side * 2, 1), to(side * side * 2, 2);
  const int swap[] = {1, 0};
  const StridedSpan source = StridedSpan::Contiguous(from.data(), 2, {side, side}).Transpose(swap);
  const StridedSpan target = StridedSpan::Contiguous(to.data(), 2, {side, side});
  for (auto _ : state) {
    CopyStrided(source, target);
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * side * side * 2);
}
BENCHMARK(CopyTransposed)->Arg(256)->Arg(2048);

void CastFloat32ToBfloat16(benchmark::State& state) {
  const int64_t count = state.range(0);
  const std::vector<float> from(count, 1.25f);
  std::vector<char> to(count * 2);
  for (auto _ : state) {
    CastElements(DType::kF32, reinterpret_cast<const char*>(from.data()), DType::kBF16, to.data(), count);
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * count * 4);
}
BENCHMARK(CastFloat32ToBfloat16)->Arg(1 << 20)->Arg(4 << 20);

void DigestOfChunks(benchmark::State& state) {
  const std::vector<char> bytes(state.range(0), 1);
  for (auto _ : state) {
    benchmark::DoNotOptimize(Xxh3(bytes));
  }
  state.SetBytesProcessed(state.iterations() * state.range(0));
}
BENCHMARK(DigestOfChunks)->Arg(256 << 10)->Arg(8 << 20);

// Takes blocks and drops them.
class NullSink : public TensorSink {
 public:
  NullSink(const Manifest& manifest, int64_t rows, int64_t rows_per_block, int64_t row_bytes) : manifest_(manifest) {
    for (int64_t row = 0; row < rows; row += rows_per_block) {
      Block block;
      block.bytes = rows_per_block * row_bytes;
      block.pieces.push_back({0, Box{{row, 0}, {rows_per_block, manifest[0].shape[1]}}, 0});
      blocks_.push_back(block);
    }
  }
  const Manifest& manifest() const override { return manifest_; }
  int64_t num_blocks() const override { return static_cast<int64_t>(blocks_.size()); }
  Block block(int64_t index) const override { return blocks_[index]; }
  absl::Status Write(int64_t, absl::Span<char>) override { return absl::OkStatus(); }
  absl::Status Finish() override { return absl::OkStatus(); }

 private:
  const Manifest& manifest_;
  std::vector<Block> blocks_;
};

void TransferFromMemory(benchmark::State& state) {
  const int64_t rows = 32768;
  MemorySource source;
  source.Add("x", DType::kBF16, {rows, 4096}, std::vector<uint16_t>(rows * 4096, 1));
  NullSink sink(source.manifest(), rows, state.range(0) / 8192, 8192);
  TransferOptions options;
  options.threads = static_cast<int>(state.range(1));
  for (auto _ : state) {
    if (!Transfer(source, sink, options).ok()) {
      state.SkipWithError("transfer failed");
    }
  }
  state.SetBytesProcessed(state.iterations() * rows * 8192);
}
BENCHMARK(TransferFromMemory)->Args({1 << 20, 1})->Args({8 << 20, 1})->Args({8 << 20, 2})->Args({8 << 20, 4});

}  // namespace
}  // namespace waypoint

BENCHMARK_MAIN();
