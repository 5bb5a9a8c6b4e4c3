#include "checkpoint/format/shared/shared_write.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/aligned_buffer.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/convert/weights/lowering.h"
#include "checkpoint/plan/exchange_plan.h"

namespace waypoint {
namespace {

constexpr int64_t kMinExchangeBytes = int64_t{4} << 20;
// Of the bound, for one block: casts need a few times a block.
constexpr int64_t kBlocksPerBound = 16;

// Some blocks of a sink.
class BlockSubset : public TensorSink {
 public:
  BlockSubset(TensorSink& sink, std::vector<int64_t> blocks) : sink_(sink), blocks_(std::move(blocks)) {}

  const Manifest& manifest() const override { return sink_.manifest(); }
  int64_t num_blocks() const override { return static_cast<int64_t>(blocks_.size()); }
  Block block(int64_t index) const override { return sink_.block(blocks_[index]); }
  absl::Status Write(int64_t index, absl::Span<char> data) override { return sink_.Write(blocks_[index], data); }
  int64_t ScratchBytes() const override { return sink_.ScratchBytes(); }
  // The whole sink is finished once.
  absl::Status Finish() override { return absl::OkStatus(); }

 private:
  TensorSink& sink_;
  const std::vector<int64_t> blocks_;
};

// `source_index` is by tensor of the block's sink; what is not in the source needs nothing.
BlockNeeds NeedsOf(const ConvertedSource& source, const std::vector<int64_t>& source_index, const Block& block) {
  BlockNeeds needs;
  needs.bytes = block.bytes;
  for (const Piece& piece : block.pieces) {
    if (source_index[piece.tensor] < 0) {
      continue;
    }
    const Expr& expression = source.tensors()[source_index[piece.tensor]].expression;
    for (InputRegion& region : InputRegions(expression, piece.box)) {
      needs.boxes.push_back({region.tensor, std::move(region.box)});
    }
  }
  return needs;
}

// What one rank has staged in a round: what it sends, then what it receives.
class Staging {
 public:
  Staging(const ExchangeRound& round, const Coordinator& ranks, AlignedBuffer& buffer) {
    sent_.assign(ranks.world_size(), 0);
    received_.assign(ranks.world_size(), 0);
    for (const ExchangedPart& part : round.parts) {
      if (part.from == ranks.rank()) {
        sent_[part.to] += part.bytes;
      }
      if (part.to == ranks.rank()) {
        received_[part.from] += part.bytes;
      }
    }
    const int64_t sent = std::accumulate(sent_.begin(), sent_.end(), int64_t{0});
    const int64_t received = std::accumulate(received_.begin(), received_.end(), int64_t{0});
    buffer.Reserve(sent + received);
    outgoing_ = buffer.span().subspan(0, sent);
    incoming_ = buffer.span().subspan(sent, received);
  }

  RankParts<const char> send() const { return {outgoing_, sent_}; }
  RankParts<char> receive() const { return {incoming_, received_}; }
  absl::Span<char> outgoing() const { return outgoing_; }
  absl::Span<char> incoming() const { return incoming_; }
  int64_t bytes() const { return static_cast<int64_t>(outgoing_.size() + incoming_.size()); }

 private:
  std::vector<int64_t> sent_;
  std::vector<int64_t> received_;
  absl::Span<char> outgoing_;
  absl::Span<char> incoming_;
};

// Fills what this rank sends, about `batch_bytes` at a time.
absl::Status Pack(const ExchangeRound& round, int rank, JobState& job, int64_t batch_bytes, absl::Span<char> outgoing) {
  std::vector<ReadRequest> requests;
  int64_t offset = 0;
  int64_t batch = 0;
  for (const ExchangedPart& part : round.parts) {
    if (part.from != rank) {
      continue;
    }
    const int element_bytes = DTypeBytes(job.manifest()[part.tensor].dtype);
    requests.push_back(job.Own(part.tensor, part.box,
                               StridedSpan::Contiguous(outgoing.data() + offset, element_bytes, part.box.sizes)));
    offset += part.bytes;
    batch += part.bytes;
    if (batch >= batch_bytes) {
      WAYPOINT_RETURN_IF_ERROR(job.ReadOwn(requests));
      requests.clear();
      batch = 0;
    }
  }
  return job.ReadOwn(requests);
}

std::vector<StagedPart> Unpack(const ExchangeRound& round, int rank, absl::Span<char> incoming) {
  std::vector<StagedPart> parts;
  int64_t offset = 0;
  for (const ExchangedPart& part : round.parts) {
    if (part.to == rank) {
      parts.push_back({part.tensor, part.box, incoming.data() + offset});
      offset += part.bytes;
    }
  }
  return parts;
}

}  // namespace

absl::StatusOr<std::unique_ptr<SharedWrite>> NewSharedWrite(TensorSource& state, const SaveOptions& options) {
  if (options.coordinator == nullptr || options.coordinator->world_size() == 1) {
    return std::unique_ptr<SharedWrite>();
  }
  return SharedWrite::Create(state, options);
}

absl::StatusOr<std::unique_ptr<SharedWrite>> SharedWrite::Create(TensorSource& state, const SaveOptions& options) {
  auto shared = std::unique_ptr<SharedWrite>(new SharedWrite(state, options));
  WAYPOINT_ASSIGN_OR_RETURN(
      shared->layout_,
      PlanTogether<JobLayout>("shared", shared->ranks_, shared->timeout_, options.plan_cache, state.manifest(),
                              [](const std::vector<std::string>& held_by_rank) -> absl::StatusOr<JobLayout> {
                                std::vector<Manifest> held;
                                for (const std::string& bytes : held_by_rank) {
                                  WAYPOINT_ASSIGN_OR_RETURN(Manifest manifest, ParseHeld(bytes));
                                  held.push_back(std::move(manifest));
                                }
                                return JobLayout::Create(held);
                              }));
  if (shared->layout_->all_hold_all()) {
    return shared;
  }
  // Ranks may have been called with different options.
  absl::Status usable;
  if (shared->exchange_ == nullptr) {
    usable = MakeError(ErrorKind::kRequest,
                       "ranks hold parts of tensors only, and there is no exchange to hand them to each other; set "
                       "SaveOptions::exchange, or save as \"distributed\"");
  } else if (options.max_exchange_bytes < kMinExchangeBytes) {
    usable = MakeError(ErrorKind::kRequest, absl::StrCat("max_exchange_bytes is ", options.max_exchange_bytes,
                                                         ", wanted at least ", kMinExchangeBytes));
  }
  WAYPOINT_RETURN_IF_ERROR(shared->ranks_.Agree("exchange", usable, shared->timeout_));
  shared->job_ = std::make_unique<JobState>(state, shared->layout_);
  return shared;
}

int64_t SharedWrite::block_bytes() const {
  return job_ == nullptr ? block_bytes_ : std::min(block_bytes_, max_exchange_bytes_ / kBlocksPerBound);
}

std::vector<int64_t> SharedWrite::OwnBlocks(const TensorSink& sink) const {
  const auto [begin, end] = ShareOfBlocks(sink.num_blocks(), ranks_.rank(), ranks_.world_size());
  std::vector<int64_t> blocks(end - begin);
  std::iota(blocks.begin(), blocks.end(), begin);
  return blocks;
}

absl::StatusOr<TransferStats> SharedWrite::WriteRounds(TensorSource& source, const ConvertedSource& converted,
                                                       TensorSink& sink, const TransferOptions& options,
                                                       absl::Status* failed) {
  std::vector<int64_t> source_index;
  for (const TensorMeta& tensor : sink.manifest().tensors()) {
    source_index.push_back(converted.manifest().Find(tensor.name));
  }
  const auto needs_of = [&](int64_t index) {
    const Block block = sink.block(index);
    return NeedsOf(converted, source_index, block);
  };
  ExchangePlanOptions plan_options;
  plan_options.max_staged_bytes = max_exchange_bytes_ / 2;
  ExchangePlanner planner(*layout_, plan_options, sink.num_blocks(), needs_of);
  TransferOptions transfer = options;
  transfer.max_bytes_in_flight = std::min(options.max_bytes_in_flight, max_exchange_bytes_ / 2);
  TransferStats total;
  int64_t share_bytes = 0;
  for (const int64_t block : OwnBlocks(sink)) {
    share_bytes += sink.block(block).bytes;
  }
  transfer.progress = nullptr;
  if (options.progress) {
    transfer.progress = [&](const TransferProgress& done) {
      options.progress({total.bytes + done.bytes_done, share_bytes});
    };
  }
  AlignedBuffer buffer;
  for (int64_t number = 0;; ++number) {
    // The same on all ranks, an error too.
    WAYPOINT_ASSIGN_OR_RETURN(const ExchangeRound round, planner.Next());
    if (round.empty()) {
      return total;
    }
    const Staging staging(round, ranks_, buffer);
    total.peak_bytes_in_flight = std::max(total.peak_bytes_in_flight, staging.bytes());
    if (!round.parts.empty()) {
      const absl::Status packed =
          failed->ok() ? Pack(round, ranks_.rank(), *job_, block_bytes(), staging.outgoing()) : *failed;
      // From here on all ranks know.
      *failed = absl::OkStatus();
      WAYPOINT_RETURN_IF_ERROR(exchange_->AllToAll(absl::StrCat("tensors, round ", number), packed, staging.send(),
                                                   staging.receive(), timeout_));
    }
    job_->Stage(Unpack(round, ranks_.rank(), staging.incoming()));
    if (failed->ok()) {
      BlockSubset mine(sink, round.blocks[ranks_.rank()]);
      const absl::StatusOr<TransferStats> stats = Transfer(source, mine, transfer);
      // Told to the others when they next meet.
      *failed = stats.status();
      if (stats.ok()) {
        total.bytes += stats->bytes;
        total.blocks += stats->blocks;
        total.peak_bytes_in_flight =
            std::max(total.peak_bytes_in_flight, staging.bytes() + stats->peak_bytes_in_flight);
      }
    }
  }
}

absl::StatusOr<TransferStats> SharedWrite::Write(TensorSource& source, const ConvertedSource& converted,
                                                 SharedSink& sink, const TransferOptions& options) {
  const bool first = ranks_.rank() == 0;
  absl::Status created;
  if (first) {
    created = sink.CreateFiles();
  } else {
    sink.JoinFiles();
  }
  WAYPOINT_RETURN_IF_ERROR(ranks_.Agree("files", created, timeout_));
  TransferStats stats;
  absl::Status written;
  if (job_ == nullptr) {
    BlockSubset mine(sink, OwnBlocks(sink));
    const absl::StatusOr<TransferStats> own = Transfer(source, mine, options);
    written = own.status();
    stats = own.value_or(stats);
  } else {
    WAYPOINT_ASSIGN_OR_RETURN(stats, WriteRounds(source, converted, sink, options, &written));
    job_->Stage({});
  }
  const int world_size = ranks_.world_size();
  const auto finish = [&]() -> absl::StatusOr<std::string> {
    WAYPOINT_RETURN_IF_ERROR(written);
    WAYPOINT_RETURN_IF_ERROR(sink.Finish());
    const auto [begin, end] = ShareOfBlocks(sink.num_blocks(), ranks_.rank(), world_size);
    return first ? std::string() : sink.BlockSums(begin, end);
  };
  WAYPOINT_ASSIGN_OR_RETURN(const std::vector<std::string> sums,
                            ranks_.AllGatherIfOk("sums of blocks", finish(), timeout_));
  const auto complete = [&]() -> absl::Status {
    for (int rank = 1; rank < world_size; ++rank) {
      const auto [begin, end] = ShareOfBlocks(sink.num_blocks(), rank, world_size);
      WAYPOINT_RETURN_IF_ERROR(Annotate(sink.SetBlockSums(begin, end, sums[rank]), absl::StrCat("rank ", rank)));
    }
    return sink.Complete();
  };
  WAYPOINT_RETURN_IF_ERROR(ranks_.Agree("files complete", first ? complete() : absl::OkStatus(), timeout_));
  return stats;
}

absl::Status SharedWrite::Seal(const std::function<absl::Status()>& seal) {
  return ranks_.rank() == 0 ? seal() : absl::OkStatus();
}

}  // namespace waypoint
