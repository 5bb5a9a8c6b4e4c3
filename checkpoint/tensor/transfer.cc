#include "checkpoint/tensor/transfer.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "checkpoint/base/aligned_buffer.h"
#include "checkpoint/base/catch_allocation.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/start_thread.h"
#include "checkpoint/base/status_macros.h"

namespace waypoint {
namespace {

constexpr size_t kSpelledOut = 10;
constexpr char kRemedy[] = "lower the bytes in flight (--max-memory) or the number of threads";

// The source's index of every tensor of the sink; all disagreements in one error.
absl::StatusOr<std::vector<int64_t>> MatchTensors(const Manifest& source, const Manifest& sink) {
  std::vector<int64_t> indices;
  std::vector<std::string> problems;
  size_t num_problems = 0;
  ErrorKind kind = ErrorKind::kUnknown;
  const auto complain = [&](ErrorKind problem_kind, std::string problem) {
    kind = kind == ErrorKind::kUnknown ? problem_kind : kind;
    if (++num_problems <= kSpelledOut) {
      problems.push_back(std::move(problem));
    }
  };
  for (const TensorMeta& wanted : sink.tensors()) {
    const int64_t index = source.Find(wanted.name);
    indices.push_back(index);
    if (index < 0) {
      complain(ErrorKind::kMissing, absl::StrCat("tensor \"", wanted.name, "\" is missing"));
      continue;
    }
    const TensorMeta& found = source[index];
    if (found.shape != wanted.shape) {
      complain(ErrorKind::kShape, absl::StrCat("tensor \"", wanted.name, "\": shape ", ShapeString(found.shape),
                                               ", wanted ", ShapeString(wanted.shape)));
    } else if (found.dtype != wanted.dtype) {
      complain(ErrorKind::kDType, absl::StrCat("tensor \"", wanted.name, "\": ", DTypeName(found.dtype), ", wanted ",
                                               DTypeName(wanted.dtype)));
    }
  }
  if (num_problems > 0) {
    return MakeError(kind, absl::StrCat(num_problems, " tensors cannot be transferred: ", absl::StrJoin(problems, "; "),
                                        num_problems > kSpelledOut ? "; ..." : ""));
  }
  return indices;
}

// What a block asks of the source, in memory that begins at `memory`.
std::vector<ReadRequest> RequestsOf(const Block& block, const Manifest& manifest,
                                    const std::vector<int64_t>& source_index, char* memory) {
  std::vector<ReadRequest> requests;
  requests.reserve(block.pieces.size());
  for (const Piece& piece : block.pieces) {
    ReadRequest request;
    request.tensor = source_index[piece.tensor];
    request.box = piece.box;
    const DType dtype = manifest[piece.tensor].dtype;
    char* to = memory + piece.offset_bytes;
    if (DTypeBytes(dtype) == 0) {
      const int64_t bytes = piece.box.num_elements() * DTypeBits(dtype) / 8;
      request.to = StridedSpan::Contiguous(to, 1, {bytes});
    } else {
      request.to = StridedSpan::Contiguous(to, DTypeBytes(dtype), piece.box.sizes);
    }
    requests.push_back(std::move(request));
  }
  return requests;
}

// The work that threads share.
class Job {
 public:
  Job(TensorSource& source, TensorSink& sink, const TransferOptions& options, std::vector<int64_t> source_index,
      int64_t bytes_total)
      : source_(source),
        sink_(sink),
        options_(options),
        source_index_(std::move(source_index)),
        bytes_total_(bytes_total),
        budget_(options.max_bytes_in_flight) {}

  // Takes blocks until there are none or something failed.  Throws nothing.
  void Work() {
    const absl::Status status = CatchAllocation("blocks of tensors", kRemedy, [this] { return MoveBlocks(); });
    if (!status.ok()) {
      Fail(status);
    }
  }

  absl::Status status() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return status_;
  }
  int64_t bytes_done() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return bytes_done_;
  }
  int64_t peak_bytes() const { return budget_.peak_bytes(); }

 private:
  absl::Status MoveBlocks() {
    AlignedBuffer buffer;
    while (!stopped_.load(std::memory_order_relaxed)) {
      const int64_t index = next_.fetch_add(1);
      if (index >= sink_.num_blocks()) {
        break;
      }
      if (options_.cancelled && options_.cancelled()) {
        return absl::CancelledError("the transfer was cancelled");
      }
      WAYPOINT_RETURN_IF_ERROR(Move(index, buffer));
    }
    return absl::OkStatus();
  }

  absl::Status Move(int64_t index, AlignedBuffer& buffer) {
    const Block block = sink_.block(index);
    absl::Span<char> memory = sink_.Destination(index);
    const int64_t held = (memory.empty() ? block.bytes : 0) + source_.ScratchBytes(block.bytes) + sink_.ScratchBytes();
    budget_.Acquire(held);
    // Others wait for it, whatever becomes of this block.
    const absl::Cleanup release = [this, held] { budget_.Release(held); };
    if (memory.empty()) {
      buffer.Reserve(block.bytes);
      memory = buffer.span().subspan(0, block.bytes);
    }
    absl::Status status = source_.Read(RequestsOf(block, sink_.manifest(), source_index_, memory.data()));
    if (status.ok()) {
      status = sink_.Write(index, memory);
    }
    if (status.ok()) {
      const std::lock_guard<std::mutex> lock(mutex_);
      bytes_done_ += block.bytes;
      if (options_.progress) {
        options_.progress({bytes_done_, bytes_total_});
      }
    }
    return status;
  }

  void Fail(const absl::Status& status) {
    stopped_.store(true, std::memory_order_relaxed);
    const std::lock_guard<std::mutex> lock(mutex_);
    status_.Update(status);  // keeps the first
  }

  TensorSource& source_;
  TensorSink& sink_;
  const TransferOptions& options_;
  const std::vector<int64_t> source_index_;
  const int64_t bytes_total_;
  ByteBudget budget_;
  std::atomic<int64_t> next_{0};
  std::atomic<bool> stopped_{false};
  std::mutex mutex_;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  int64_t bytes_done_ ABSL_GUARDED_BY(mutex_) = 0;
};

absl::StatusOr<TransferStats> TransferBlocks(TensorSource& source, TensorSink& sink, const TransferOptions& options) {
  WAYPOINT_ASSIGN_OR_RETURN(std::vector<int64_t> indices, MatchTensors(source.manifest(), sink.manifest()));
  int64_t bytes_total = 0;
  int64_t largest = 1;
  for (int64_t i = 0; i < sink.num_blocks(); ++i) {
    const int64_t bytes = sink.block(i).bytes;
    bytes_total += bytes;
    largest = std::max(largest, bytes);
  }
  // Every thread keeps its block's memory between blocks, so the budget bounds the number of threads.
  const int64_t per_thread = largest + source.ScratchBytes(largest) + sink.ScratchBytes();
  const int64_t threads = std::max<int64_t>(
      1, std::min({int64_t{options.threads}, options.max_bytes_in_flight / per_thread, sink.num_blocks()}));

  // Spans are computed with, never followed; the address only has to be far from zero.
  char* const nowhere = reinterpret_cast<char*>(uintptr_t{1} << 40);
  source.Expect([&](absl::FunctionRef<void(absl::Span<const ReadRequest>)> visit) {
    for (int64_t i = 0; i < sink.num_blocks(); ++i) {
      visit(RequestsOf(sink.block(i), sink.manifest(), indices, nowhere));
    }
  });
  const ReadStats before = source.stats();

  Job job(source, sink, options, std::move(indices), bytes_total);
  std::vector<std::thread> workers;
  workers.reserve(threads);
  for (int64_t i = 1; i < threads; ++i) {
    absl::StatusOr<std::thread> worker = StartThread([&job] { job.Work(); });
    if (!worker.ok()) {
      break;  // the others do its share
    }
    workers.push_back(*std::move(worker));
  }
  job.Work();
  for (std::thread& worker : workers) {
    worker.join();
  }
  WAYPOINT_RETURN_IF_ERROR(job.status());
  WAYPOINT_RETURN_IF_ERROR(sink.Finish());

  TransferStats stats;
  stats.bytes = job.bytes_done();
  stats.blocks = sink.num_blocks();
  stats.peak_bytes_in_flight = job.peak_bytes();
  const ReadStats after = source.stats();
  stats.source.bytes_read = after.bytes_read - before.bytes_read;
  stats.source.bytes_unchecked = after.bytes_unchecked - before.bytes_unchecked;
  return stats;
}

}  // namespace

absl::StatusOr<TransferStats> Transfer(TensorSource& source, TensorSink& sink, const TransferOptions& options) {
  return CatchAllocation("a transfer of tensors", kRemedy, [&] { return TransferBlocks(source, sink, options); });
}

}  // namespace waypoint
