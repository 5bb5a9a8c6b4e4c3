#ifndef CHECKPOINT_CONTAINER_TORCH_ZIP_CRC_LEDGER_H_
#define CHECKPOINT_CONTAINER_TORCH_ZIP_CRC_LEDGER_H_

// The CRC-32 of a record whose bytes are seen in pieces, in any order and by many threads.
//
// A CRC covers a whole record, but a record is read by boxes.  The ledger keeps the CRC of each stretch that was seen
// and joins neighbours; when one stretch is the whole record, it must have the record's CRC.  Bytes that are seen again
// do not count.  Source for the joining: zlib, crc32_combine.  Thread-safe.

#include <cstdint>
#include <map>
#include <mutex>

#include "absl/base/thread_annotations.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"

namespace waypoint {

class CrcLedger {
 public:
  explicit CrcLedger(int64_t record_bytes) : record_bytes_(record_bytes) {}

  // `data` is what the record has at `begin`.  The CRC of the record when these were the last bytes that were missing.
  absl::optional<uint32_t> See(int64_t begin, absl::Span<const char> data);

  int64_t seen_bytes() const;

 private:
  struct Stretch {
    int64_t end = 0;
    uint32_t crc32 = 0;
    bool ready = false;  // false while its CRC is computed
  };

  const int64_t record_bytes_;
  mutable std::mutex mutex_;
  std::map<int64_t, Stretch> stretches_ ABSL_GUARDED_BY(mutex_);  // by begin; disjoint
};

}  // namespace waypoint

#endif  // CHECKPOINT_CONTAINER_TORCH_ZIP_CRC_LEDGER_H_
