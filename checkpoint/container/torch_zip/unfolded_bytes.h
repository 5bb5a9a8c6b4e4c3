#ifndef CHECKPOINT_CONTAINER_TORCH_ZIP_UNFOLDED_BYTES_H_
#define CHECKPOINT_CONTAINER_TORCH_ZIP_UNFOLDED_BYTES_H_

// Counts what the parts of a file, or the files of a checkpoint, unfold to: compressed records, tensors that repeat
// elements or share a storage.
//
//   UnfoldedBytes unfolded(limits, file.size_bytes());
//   WAYPOINT_RETURN_IF_ERROR(unfolded.Add(entry.stored_bytes, entry.bytes));
//
// One thread.

#include <algorithm>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/checked_math.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/limits.h"

namespace waypoint {

class UnfoldedBytes {
 public:
  UnfoldedBytes(const Limits& limits, int64_t file_bytes) : limits_(limits), file_bytes_(file_bytes) {}

  // A part that is stored in `stored_bytes` and read as `bytes`, neither below zero.  E_LIMIT (expand_bytes,
  // expand_file_bytes); the message begins with "unfolds".
  absl::Status Add(int64_t stored_bytes, int64_t bytes) {
    if (!Allows(stored_bytes, limits_.expand_factor, limits_.expand_bytes, bytes)) {
      return MakeError(ErrorKind::kLimit, absl::StrCat("unfolds from ", stored_bytes, " to ", bytes,
                                                       " bytes, over expand_bytes = ", limits_.expand_bytes,
                                                       " and expand_factor = ", limits_.expand_factor));
    }
    return AddToSum(bytes, "the file");
  }

  // All that one of several files unfolds to; the limits of a file hold for them together.
  absl::Status AddFile(int64_t bytes) { return AddToSum(bytes, "the files"); }

  int64_t sum() const { return sum_; }

 private:
  absl::Status AddToSum(int64_t bytes, absl::string_view what) {
    if (!CheckedAdd(sum_, bytes, &sum_) ||
        !Allows(file_bytes_, limits_.expand_file_factor, limits_.expand_file_bytes, sum_)) {
      return MakeError(ErrorKind::kLimit,
                       absl::StrCat("unfolds to ", bytes, " bytes, which brings ", what, " of ", file_bytes_,
                                    " bytes over expand_file_bytes = ", limits_.expand_file_bytes,
                                    " and expand_file_factor = ", limits_.expand_file_factor));
    }
    return absl::OkStatus();
  }

  static bool Allows(int64_t stored, int64_t factor, int64_t floor, int64_t bytes) {
    int64_t allowed = 0;
    return !CheckedMul(stored, factor, &allowed) || bytes <= std::max(allowed, floor);
  }

  const Limits& limits_;
  const int64_t file_bytes_;
  int64_t sum_ = 0;
};

}  // namespace waypoint

#endif  // CHECKPOINT_CONTAINER_TORCH_ZIP_UNFOLDED_BYTES_H_
