#include "checkpoint/container/torch_zip/crc_ledger.h"

#include <algorithm>
#include <iterator>
#include <utility>
#include <vector>

#include "checkpoint/container/torch_zip/crc32.h"

namespace waypoint {

absl::optional<uint32_t> CrcLedger::See(int64_t begin, absl::Span<const char> data) {
  const int64_t end = begin + static_cast<int64_t>(data.size());
  std::vector<std::pair<int64_t, int64_t>> fresh;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    int64_t at = begin;
    auto next = stretches_.upper_bound(begin);
    if (next != stretches_.begin()) {
      at = std::max(at, std::prev(next)->second.end);
    }
    while (at < end) {
      const int64_t stop = next == stretches_.end() ? end : std::min(end, next->first);
      if (at < stop) {
        fresh.emplace_back(at, stop);
      }
      if (next == stretches_.end()) {
        break;
      }
      at = next->second.end;
      ++next;
    }
    // Claimed, so that no two threads compute the same.
    for (const auto& [from, to] : fresh) {
      stretches_[from] = {to, 0, false};
    }
  }

  absl::optional<uint32_t> whole;
  for (const auto& [from, to] : fresh) {
    const uint32_t crc = ExtendCrc32(0, data.subspan(from - begin, to - from));
    const std::lock_guard<std::mutex> lock(mutex_);
    auto it = stretches_.find(from);
    it->second.crc32 = crc;
    it->second.ready = true;
    const auto join = [this](auto left, auto right) ABSL_NO_THREAD_SAFETY_ANALYSIS {
      if (left->second.ready && right->second.ready && left->second.end == right->first) {
        left->second.crc32 = CombineCrc32(left->second.crc32, right->second.crc32, right->second.end - right->first);
        left->second.end = right->second.end;
        stretches_.erase(right);
        return true;
      }
      return false;
    };
    if (it != stretches_.begin() && join(std::prev(it), it)) {
      it = std::prev(stretches_.upper_bound(from));
    }
    if (std::next(it) != stretches_.end()) {
      join(it, std::next(it));
    }
    if (it->first == 0 && it->second.end == record_bytes_) {
      whole = it->second.crc32;
    }
  }
  return whole;
}

int64_t CrcLedger::seen_bytes() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  int64_t sum = 0;
  for (const auto& [begin, stretch] : stretches_) {
    sum += stretch.end - begin;
  }
  return sum;
}

}  // namespace waypoint
