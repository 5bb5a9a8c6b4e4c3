#ifndef CHECKPOINT_TENSOR_TRANSFER_H_
#define CHECKPOINT_TENSOR_TRANSFER_H_

// Moves tensors from a source to a sink: the one function behind saving, loading, resharding and converting.
//
//   WAYPOINT_ASSIGN_OR_RETURN(TransferStats stats, Transfer(*source, *sink, {.max_bytes_in_flight = 64 << 20}));
//
// Tensors are matched by name; dtypes and shapes must be equal (convert the source first where they are not).  A few
// threads pull the sink's blocks in order; each reads, then writes, so that disk reads, copies, digests and disk
// writes of different blocks overlap.  Thread-safe as far as source and sink are.

#include <cstdint>
#include <functional>

#include "absl/status/statusor.h"
#include "checkpoint/tensor/byte_budget.h"
#include "checkpoint/tensor/tensor_sink.h"
#include "checkpoint/tensor/tensor_source.h"

namespace waypoint {

struct TransferProgress {
  int64_t bytes_done = 0;
  int64_t bytes_total = 0;
};

struct TransferOptions {
  // Upper bound of the bytes held between source and sink: block memory and the scratch of both.  A single block
  // that is larger is admitted alone.  Fewer threads run when it does not suffice for all.
  int64_t max_bytes_in_flight = int64_t{192} << 20;
  int threads = 4;
  // Called now and then, by one thread at a time.
  std::function<void(const TransferProgress&)> progress;
  // Polled between blocks; true stops the transfer with Cancelled.
  std::function<bool()> cancelled;
};

struct TransferStats {
  int64_t bytes = 0;
  int64_t blocks = 0;
  int64_t peak_bytes_in_flight = 0;
  // What the source read meanwhile, for whomever.
  ReadStats source;
};

// Errors: E_MISSING, E_SHAPE, E_DTYPE (all mismatches in one message), and whatever source and sink return.  After a
// failure the sink is not finished.
absl::StatusOr<TransferStats> Transfer(TensorSource& source, TensorSink& sink, const TransferOptions& options);

}  // namespace waypoint

#endif  // CHECKPOINT_TENSOR_TRANSFER_H_
