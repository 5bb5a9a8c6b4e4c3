#ifndef TOOLS_VERIFY_OUTPUT_H_
#define TOOLS_VERIFY_OUTPUT_H_

// Is a checkpoint that was just written the same model as the one that it came from?
//
// Both checks read what is on disk through its own format, that is, through the inverse of the conversion that wrote
// it, and compare in native names.  Does not link libtorch.  Thread-safe as far as the source is.

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "checkpoint/base/dtype.h"
#include "checkpoint/format/checkpoint_format.h"
#include "checkpoint/storage/file_system.h"
#include "checkpoint/tensor/transfer.h"

namespace waypoint {

struct VerifyOptions {
  // As they were given to the writer.
  DType weights_dtype = DType::kInvalid;
  bool optimizer_state = true;
  LoadOptions load;
  // For VerifyLogits: as they were given to open the source.
  FormatOptionValues source_format_options;
  std::vector<std::string> source_strip_prefixes;
  TransferOptions transfer;
  int64_t block_bytes = int64_t{8} << 20;
  // Of the tensors' elements, as CompareOptions.  Logits are the first share's business.
  int share = 0;
  int shares = 1;
  // For VerifyLogits, see run_logits.h.
  std::string logits_program;
};

// Config and every tensor, bit for bit; where weights were cast, against the source's rounded ones; and every file that
// travels along, byte for byte.  Stored digests are checked on the way.  Memory: transfer.max_bytes_in_flight.
// Errors: E_VERIFY naming the first ten differences; whatever opening and reading return.
absl::Status VerifyDigests(FileSystem& fs, CheckpointFormat& format, const std::string& path, OpenedCheckpoint& source,
                           const VerifyOptions& options);

// VerifyDigests, then float32 logits of both models on a few fixed tokens, at most 1e-4 apart.  Where weights were
// cast, the source's are rounded first.  Another process holds one model at a time in float32. Errors: also E_VERIFY
// when logits cannot be computed, with the reason.
absl::Status VerifyLogits(FileSystem& fs, CheckpointFormat& format, const std::string& path,
                          const std::string& source_path, const std::string& source_format, OpenedCheckpoint& source,
                          const VerifyOptions& options);

}  // namespace waypoint

#endif  // TOOLS_VERIFY_OUTPUT_H_
