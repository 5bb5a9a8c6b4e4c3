#ifndef TOOLS_DIGEST_TENSORS_H_
#define TOOLS_DIGEST_TENSORS_H_

// Reads every tensor of a source once and digests its bytes.  Thread-safe as far as the source is.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "checkpoint/tensor/tensor_source.h"
#include "checkpoint/tensor/transfer.h"

namespace waypoint {

// XXH3 of each tensor's row-major bytes, in hexadecimal, in the order of the manifest.
//
// Digests are made in order, so one thread reads: transfer.threads is not used.
// Errors: whatever the source finds wrong, stored digests included.
absl::StatusOr<std::vector<std::string>> DigestTensors(TensorSource& source, const TransferOptions& transfer,
                                                       int64_t block_bytes = int64_t{8} << 20);

}  // namespace waypoint

#endif  // TOOLS_DIGEST_TENSORS_H_
