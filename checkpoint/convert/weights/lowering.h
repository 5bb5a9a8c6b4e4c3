#ifndef CHECKPOINT_CONVERT_WEIGHTS_LOWERING_H_
#define CHECKPOINT_CONVERT_WEIGHTS_LOWERING_H_

// Rewrites "fill this memory with that box of an expression" to reads of the tensors that the expression refers to.
// Pure geometry, except that casts that the source does not make are given scratch memory.  One thread per Lowering.

#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "checkpoint/convert/weights/expression.h"
#include "checkpoint/tensor/tensor_source.h"

namespace waypoint {

class Lowering {
 public:
  // `source` is what the expressions refer to, borrowed; it makes the casts that it can.  Null: it makes none.
  // `scratch` gives memory that stays until FinishCasts returned.
  Lowering(const TensorSource* source, std::function<char*(int64_t bytes)> scratch)
      : source_(source), scratch_(std::move(scratch)) {}

  // Adds the reads that fill `to` (to.sizes == box.sizes).
  void Add(const Expr& expression, const Box& box, const StridedSpan& to);

  const std::vector<ReadRequest>& requests() const { return requests_; }

  // After the reads: converts into place what was read for casts that the source did not make.
  // Errors: E_DTYPE for finite elements that the type cannot hold; names the tensor and counts those of this read.
  absl::Status FinishCasts();

 private:
  struct PendingCast {
    const Expression* expression;
    int64_t elements;
    std::unique_ptr<ElementCast> cast;
    // Of a cast that the source does not make.
    StridedSpan from;  // contiguous
    StridedSpan to;
  };

  // `cast`: what the source is to convert the elements with, or null.
  void Add(const Expr& expression, const Box& box, const StridedSpan& to, ElementCast* cast);
  void AddConcat(const Expression& concat, const Box& box, const StridedSpan& to, ElementCast* cast);
  void AddReshape(const Expression& reshape, const Box& box, const StridedSpan& to, ElementCast* cast);
  void AddCast(const Expression& cast, const Box& box, const StridedSpan& to);

  const TensorSource* const source_;
  std::function<char*(int64_t bytes)> scratch_;
  std::vector<ReadRequest> requests_;
  std::vector<PendingCast> casts_;
};

// Does `source` make this cast (an expression of that kind) while it reads?
bool IsCastOnRead(const Expression& cast, const TensorSource* source);

struct InputRegion {
  int64_t tensor = 0;  // of the source that the expression refers to
  Box box;
};
// What a Lowering of the same box would read.
std::vector<InputRegion> InputRegions(const Expr& expression, const Box& box);

}  // namespace waypoint

#endif  // CHECKPOINT_CONVERT_WEIGHTS_LOWERING_H_
