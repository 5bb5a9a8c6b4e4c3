#include "checkpoint/format/external/equal_tensors.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "checkpoint/base/aligned_buffer.h"
#include "checkpoint/base/status_macros.h"

namespace waypoint {
namespace {

constexpr int64_t kCompareBytes = int64_t{1} << 20;

}  // namespace

absl::StatusOr<bool> TensorsAreEqual(TensorSource& source, int64_t a, int64_t b) {
  const TensorMeta& meta = source.manifest()[a];
  if (meta.dtype != source.manifest()[b].dtype || meta.shape != source.manifest()[b].shape) {
    return false;
  }
  const int element_bytes = DTypeBytes(meta.dtype);
  const int64_t step = kCompareBytes / element_bytes;
  AlignedBuffer left(kCompareBytes);
  AlignedBuffer right(kCompareBytes);
  for (int64_t begin = 0; begin < meta.num_elements(); begin += step) {
    const int64_t end = std::min(begin + step, meta.num_elements());
    std::vector<ReadRequest> requests;
    int64_t offset = 0;
    for (const Box& box : FlatRangeToBoxes(meta.shape, begin, end)) {
      requests.push_back({a, box, StridedSpan::Contiguous(left.data() + offset, element_bytes, box.sizes)});
      requests.push_back({b, box, StridedSpan::Contiguous(right.data() + offset, element_bytes, box.sizes)});
      offset += box.num_elements() * element_bytes;
    }
    WAYPOINT_RETURN_IF_ERROR(source.Read(requests));
    if (std::memcmp(left.data(), right.data(), offset) != 0) {
      return false;
    }
  }
  return true;
}

}  // namespace waypoint
