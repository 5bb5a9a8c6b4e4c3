// Planning how the ranks of job_405b.h hand each other what common files need: the weights alone, as for an export, and
// a `native` save with optimizer state, in blocks and rounds as by default.  Every rank makes this plan, one round at a
// time beside the writing.  Names and order of the file are those of the job, as in native files.
//
//   bazel run -c opt //tests/benchmarks:exchange_plan_benchmark

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <iostream>
#include <vector>

#include "absl/strings/str_format.h"
#include "checkpoint/plan/exchange_plan.h"
#include "checkpoint/plan/job_layout.h"
#include "tests/benchmarks/job_405b.h"

namespace waypoint {
namespace {

constexpr int64_t kMaxExchangeBytes = int64_t{64} << 20;  // SaveOptions::max_exchange_bytes
constexpr int64_t kBlockBytes = kMaxExchangeBytes / 16;   // SharedWrite::block_bytes
constexpr int64_t kMaxStagedBytes = kMaxExchangeBytes / 2;

double Seconds(std::chrono::steady_clock::time_point since) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - since).count();
}

// Blocks of a file that holds all tensors, one behind the other.
class Blocks {
 public:
  explicit Blocks(const Manifest& tensors) : tensors_(tensors) {
    for (const TensorMeta& tensor : tensors.tensors()) {
      begins_.push_back(bytes_);
      bytes_ += tensor.num_bytes();
    }
  }

  int64_t size() const { return (bytes_ + kBlockBytes - 1) / kBlockBytes; }
  int64_t bytes() const { return bytes_; }

  BlockNeeds Needs(int64_t block) const {
    const int64_t begin = block * kBlockBytes;
    const int64_t end = std::min(begin + kBlockBytes, bytes_);
    BlockNeeds needs;
    needs.bytes = end - begin;
    int64_t tensor = std::upper_bound(begins_.begin(), begins_.end(), begin) - begins_.begin() - 1;
    for (; tensor < tensors_.size() && begins_[tensor] < end; ++tensor) {
      const TensorMeta& meta = tensors_[tensor];
      const int64_t from = std::max(begin, begins_[tensor]) - begins_[tensor];
      const int64_t to = std::min(end, begins_[tensor] + meta.num_bytes()) - begins_[tensor];
      const int bytes = DTypeBytes(meta.dtype);
      for (Box& box : FlatRangeToBoxes(meta.shape, from / bytes, to / bytes)) {
        needs.boxes.push_back({tensor, std::move(box)});
      }
    }
    return needs;
  }

 private:
  const Manifest& tensors_;
  std::vector<int64_t> begins_;
  int64_t bytes_ = 0;
};

Manifest WeightsOf(const Manifest& held) {
  Manifest weights;
  for (const TensorMeta& tensor : held.tensors()) {
    if (tensor.dtype == DType::kBF16 && !weights.Add(tensor).ok()) {
      std::abort();
    }
  }
  return weights;
}

absl::Status Measure(int data_parallel, bool weights_only) {
  const int ranks = RanksOf405b(data_parallel);
  std::vector<Manifest> held;
  for (int rank = 0; rank < ranks; ++rank) {
    const Manifest all = ManifestOf405b(rank, data_parallel);  // a rank would receive it
    held.push_back(weights_only ? WeightsOf(all) : all);
  }
  auto start = std::chrono::steady_clock::now();
  const absl::StatusOr<JobLayout> layout = JobLayout::Create(held);
  if (!layout.ok()) {
    return layout.status();
  }
  const double layout_seconds = Seconds(start);
  held.clear();

  const Blocks blocks(layout->tensors());
  start = std::chrono::steady_clock::now();
  ExchangePlanOptions options;
  options.max_staged_bytes = kMaxStagedBytes;
  ExchangePlanner planner(*layout, options, blocks.size(), [&blocks](int64_t block) { return blocks.Needs(block); });
  int64_t rounds = 0;
  int64_t parts = 0;
  int64_t moved = 0;
  for (;; ++rounds) {
    const absl::StatusOr<ExchangeRound> round = planner.Next();
    if (!round.ok()) {
      return round.status();
    }
    if (round->empty()) {
      break;
    }
    parts += static_cast<int64_t>(round->parts.size());
    for (const ExchangedPart& part : round->parts) {
      moved += part.bytes;
    }
  }
  const double seconds = Seconds(start);
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  absl::PrintF("%-8s %6d %9.3f %10d %8d %10d %9.2f %9.3f %9.3f %9.2f %9d\n", weights_only ? "weights" : "all", ranks,
               layout_seconds, blocks.size(), rounds, parts,
               static_cast<double>(moved) / static_cast<double>(blocks.bytes()), seconds,
               seconds * 1e3 / static_cast<double>(rounds), seconds * 1e6 / static_cast<double>(parts),
               usage.ru_maxrss >> 10);
  return absl::OkStatus();
}

int Run() {
  absl::PrintF("%-8s %6s %9s %10s %8s %10s %9s %9s %9s %9s %9s\n", "", "ranks", "layout s", "blocks", "rounds", "parts",
               "moved", "rounds s", "ms/round", "us/part", "peak MiB");
  for (const bool weights_only : {true, false}) {
    for (const int data_parallel : {2, 4, 8}) {
      if (const absl::Status status = Measure(data_parallel, weights_only); !status.ok()) {
        std::cerr << status << "\n";
        return 1;
      }
    }
  }
  return 0;
}

}  // namespace
}  // namespace waypoint

int main() { return waypoint::Run(); }
