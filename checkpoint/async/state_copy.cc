#include "checkpoint/async/state_copy.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "checkpoint/async/stream_copy.h"
#include "checkpoint/base/aligned_buffer.h"
#include "checkpoint/base/catch_allocation.h"
#include "checkpoint/base/error.h"

namespace waypoint {
namespace {

constexpr int64_t kAlignment = 64;
// Large, so that taking a turn costs nothing; small, so that two threads end together.
constexpr int64_t kTurnBytes = int64_t{8} << 20;

StridedSpan Bytes(char* data, int64_t bytes) { return StridedSpan::Contiguous(data, 1, {bytes}); }

void Copy(const StridedSpan& from, const StridedSpan& to) {
  if (from.IsContiguous() && to.IsContiguous()) {
    StreamCopy(to.data, from.data, NumElements(to.sizes) * to.element_bytes);
  } else {
    CopyStrided(from, to);
  }
}

}  // namespace

int64_t StateCopy::BytesFor(const MemoryState& state) {
  int64_t bytes = 0;
  for (const MemoryTensor& tensor : state) {
    bytes = AlignUp(bytes, kAlignment) + tensor.num_bytes();
  }
  return bytes;
}

StateCopy::StateCopy(MemoryState state, char* memory) : state_(std::move(state)) {
  int64_t offset = 0;
  for (size_t i = 0; i < state_.size(); ++i) {
    const MemoryTensor& tensor = state_[i];
    const int64_t bytes = tensor.num_bytes();
    offset = AlignUp(offset, kAlignment);
    MemoryTensor copy;
    copy.name = tensor.name;
    copy.dtype = tensor.dtype;
    copy.shape = tensor.shape;
    copy.box = tensor.box;
    copy.memory = StridedSpan::Contiguous(memory + offset, DTypeBytes(tensor.dtype), tensor.box.sizes);
    if (bytes > 0 && !tensor.fetch && tensor.memory.IsContiguous()) {
      for (int64_t begin = 0; begin < bytes; begin += kTurnBytes) {
        const int64_t length = std::min(kTurnBytes, bytes - begin);
        pieces_.push_back({i, Bytes(tensor.memory.data + begin, length), Bytes(memory + offset + begin, length)});
      }
    } else if (bytes > 0) {
      pieces_.push_back({i, tensor.fetch ? StridedSpan() : tensor.memory, copy.memory});
    }
    copied_.push_back(std::move(copy));
    offset += bytes;
    bytes_ += bytes;
  }
  int64_t turn_bytes = kTurnBytes;
  for (size_t i = 0; i < pieces_.size(); ++i) {
    const StridedSpan& to = pieces_[i].to;
    const int64_t bytes = NumElements(to.sizes) * to.element_bytes;
    if (turn_bytes + bytes > kTurnBytes) {
      turns_.push_back({i, i});
      turn_bytes = 0;
    }
    turns_.back().end = i + 1;
    turn_bytes += bytes;
  }
}

void StateCopy::Work() {
  for (size_t turn = next_++; turn < turns_.size(); turn = next_++) {
    // A turn that ends with an exception would never be done, and Finish would wait for it.
    const absl::Status status =
        CatchAllocation("the copy of a snapshot", "lower what the process holds, or save without checkpoint.async",
                        [&] { return CopyTurn(turns_[turn]); });
    const std::lock_guard<std::mutex> lock(mutex_);
    status_.Update(status);
    if (++turns_done_ == turns_.size()) {
      done_.notify_all();
    }
  }
}

absl::Status StateCopy::CopyTurn(const Turn& turn) const {
  for (size_t i = turn.begin; i < turn.end; ++i) {
    const Piece& piece = pieces_[i];
    const MemoryTensor& tensor = state_[piece.tensor];
    if (!tensor.fetch) {
      Copy(piece.from, piece.to);
    } else if (const absl::Status fetched = tensor.fetch(piece.to); !fetched.ok()) {
      return Annotate(fetched, absl::StrCat("tensor \"", tensor.name, "\""));
    }
  }
  return absl::OkStatus();
}

absl::Status StateCopy::Finish() {
  Work();
  std::unique_lock<std::mutex> lock(mutex_);
  done_.wait(lock, [this] { return turns_done_ == turns_.size(); });
  return status_;
}

}  // namespace waypoint
