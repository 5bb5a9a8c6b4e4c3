#ifndef CHECKPOINT_FORMAT_SHARED_SHARED_WRITE_H_
#define CHECKPOINT_FORMAT_SHARED_SHARED_WRITE_H_

// Files of a whole job: the same as one rank would write that has the job's whole state, byte for byte.
//
//   WAYPOINT_ASSIGN_OR_RETURN(auto shared, SharedWrite::Create(state, options));
//   ... plan a ConvertedSource over shared->state() and a sink, as one rank would, on all ranks ...
//   WAYPOINT_RETURN_IF_ERROR(shared->Write(source, sink, transfer).status());   // on all ranks
//   WAYPOINT_RETURN_IF_ERROR(shared->Seal([&] { return WriteManifest(); }));    // runs on rank 0
//
// What a block of the files needs of tensors that other ranks hold comes in rounds (plan/exchange_plan.h) through
// SaveOptions::exchange, into memory that is bounded by SaveOptions::max_exchange_bytes.
//
// Every rank writes about as many neighbouring blocks as any other: rank 0 creates the files, all others open them,
// everybody syncs what it wrote, and rank 0 gets the digests and checksums of the blocks and completes the files.  One
// thread.

#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "checkpoint/convert/weights/converted_source.h"
#include "checkpoint/format/checkpoint_format.h"
#include "checkpoint/format/shared/job_state.h"
#include "checkpoint/tensor/shared_sink.h"

namespace waypoint {

class SharedWrite {
 public:
  // All ranks call it.  Errors: as JobLayout::Create; E_REQUEST when tensors must cross ranks and there is no exchange,
  // or too small a bound.
  static absl::StatusOr<std::unique_ptr<SharedWrite>> Create(TensorSource& state, const SaveOptions& options);

  // The job's whole state, to plan by.
  TensorSource& state() { return job_ == nullptr ? state_ : *job_; }
  // For the sink.
  int64_t block_bytes() const;

  // All ranks call it, and get OK or an error together.  `source` has the tensors of `converted`, which is made of
  // state(), and may have more that every rank can make.  Of the bound, half is for what is sent and received, half for
  // blocks.
  absl::StatusOr<TransferStats> Write(TensorSource& source, const ConvertedSource& converted, SharedSink& sink,
                                      const TransferOptions& options);

  // Runs `seal` on rank 0, after Write; the others hear of its outcome before the checkpoint is published.
  absl::Status Seal(const std::function<absl::Status()>& seal);

 private:
  SharedWrite(TensorSource& state, const SaveOptions& options)
      : state_(state),
        ranks_(*options.coordinator),
        exchange_(options.exchange),
        timeout_(options.coordination_timeout),
        max_exchange_bytes_(options.max_exchange_bytes),
        block_bytes_(options.block_bytes) {}

  std::vector<int64_t> OwnBlocks(const TensorSink& sink) const;
  // An error in *failed is this rank's own, which the others have not heard of yet.
  absl::StatusOr<TransferStats> WriteRounds(TensorSource& source, const ConvertedSource& converted, TensorSink& sink,
                                            const TransferOptions& options, absl::Status* failed);

  TensorSource& state_;
  Coordinator& ranks_;
  Exchange* const exchange_;
  const absl::Duration timeout_;
  const int64_t max_exchange_bytes_;
  const int64_t block_bytes_;
  std::shared_ptr<const JobLayout> layout_;
  std::unique_ptr<JobState> job_;  // null where every rank has everything
};

// Null where one rank writes alone.
absl::StatusOr<std::unique_ptr<SharedWrite>> NewSharedWrite(TensorSource& state, const SaveOptions& options);

}  // namespace waypoint

#endif  // CHECKPOINT_FORMAT_SHARED_SHARED_WRITE_H_
