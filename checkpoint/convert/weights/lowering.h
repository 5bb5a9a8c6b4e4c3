#ifndef CHECKPOINT_CONVERT_WEIGHTS_LOWERING_H_
#define CHECKPOINT_CONVERT_WEIGHTS_LOWERING_H_

// Rewrites "fill this memory with that box of an expression" to reads of the tensors that the expression refers to.
// Pure geometry, except that casts are given scratch memory.  One thread per Lowering.

#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "checkpoint/convert/weights/expression.h"
#include "checkpoint/tensor/tensor_source.h"

namespace waypoint {

class Lowering {
 public:
  // `scratch` gives memory that stays until FinishCasts returned.
  explicit Lowering(std::function<char*(int64_t bytes)> scratch) : scratch_(std::move(scratch)) {}

  // Adds the reads that fill `to` (to.sizes == box.sizes).
  void Add(const Expr& expression, const Box& box, const StridedSpan& to);

  const std::vector<ReadRequest>& requests() const { return requests_; }

  // After the reads: converts what was read for casts into place.
  // Errors: E_DTYPE for finite elements that the type cannot hold; names the tensor and counts those of this read.
  absl::Status FinishCasts();

 private:
  struct PendingCast {
    const Expression* cast;
    StridedSpan from;  // contiguous
    StridedSpan to;
  };

  void AddConcat(const Expression& concat, const Box& box, const StridedSpan& to);
  void AddReshape(const Expression& reshape, const Box& box, const StridedSpan& to);
  void AddCast(const Expression& cast, const Box& box, const StridedSpan& to);

  std::function<char*(int64_t bytes)> scratch_;
  std::vector<ReadRequest> requests_;
  std::vector<PendingCast> casts_;
};

struct InputRegion {
  int64_t tensor = 0;  // of the source that the expression refers to
  Box box;
};
// What a Lowering of the same box would read.
std::vector<InputRegion> InputRegions(const Expr& expression, const Box& box);

}  // namespace waypoint

#endif  // CHECKPOINT_CONVERT_WEIGHTS_LOWERING_H_
