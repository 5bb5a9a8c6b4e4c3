#include "checkpoint/format/external/equal_tensors.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "checkpoint/base/aligned_buffer.h"
#include "checkpoint/base/status_macros.h"

namespace waypoint {
namespace {

constexpr int64_t kCompareBytes = int64_t{1} << 20;

// Adds requests for elements [begin, end) of a tensor, which go to `data` one after the other.
void RequestFlat(const TensorSource& source, int64_t tensor, int64_t begin, int64_t end, char* data,
                 std::vector<ReadRequest>* requests) {
  const TensorMeta& meta = source.manifest()[tensor];
  const int element_bytes = DTypeBytes(meta.dtype);
  for (const Box& box : FlatRangeToBoxes(meta.shape, begin, end)) {
    requests->push_back({tensor, box, StridedSpan::Contiguous(data, element_bytes, box.sizes)});
    data += box.num_elements() * element_bytes;
  }
}

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
    RequestFlat(source, a, begin, end, left.data(), &requests);
    RequestFlat(source, b, begin, end, right.data(), &requests);
    WAYPOINT_RETURN_IF_ERROR(source.Read(requests));
    if (std::memcmp(left.data(), right.data(), (end - begin) * element_bytes) != 0) {
      return false;
    }
  }
  return true;
}

absl::StatusOr<bool> HasOneValue(TensorSource& source, int64_t tensor) {
  const TensorMeta& meta = source.manifest()[tensor];
  const int element_bytes = DTypeBytes(meta.dtype);
  const int64_t step = kCompareBytes / element_bytes;
  // The last element of the piece before, then a piece: each element is compared with the one before it.
  AlignedBuffer buffer(kCompareBytes + element_bytes);
  char* const piece = buffer.data() + element_bytes;
  for (int64_t begin = 0; begin < meta.num_elements(); begin += step) {
    const int64_t end = std::min(begin + step, meta.num_elements());
    const int64_t bytes = (end - begin) * element_bytes;
    std::vector<ReadRequest> requests;
    RequestFlat(source, tensor, begin, end, piece, &requests);
    WAYPOINT_RETURN_IF_ERROR(source.Read(requests));
    const int64_t skipped = begin == 0 ? element_bytes : 0;
    if (std::memcmp(piece + skipped, piece + skipped - element_bytes, bytes - skipped) != 0) {
      return false;
    }
    std::memcpy(buffer.data(), piece + bytes - element_bytes, element_bytes);
  }
  return true;
}

}  // namespace waypoint
