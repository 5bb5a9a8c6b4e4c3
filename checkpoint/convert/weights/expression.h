#ifndef CHECKPOINT_CONVERT_WEIGHTS_EXPRESSION_H_
#define CHECKPOINT_CONVERT_WEIGHTS_EXPRESSION_H_

// The node algebra: how a tensor is made of other tensors.
//
// An expression is a tree over references to the tensors of a source.  It knows its shape and element type before a
// byte is read, prints itself, and can be simplified: a part of a concatenation is the original tensor again, so that
// an import followed by an export moves bytes and computes nothing.
//
//   Concat({Ref(k), Ref(v)}, 0)                  key_value = concat(k_proj, v_proj)
//   Narrow(that, 0, 0, 128)                      simplifies to Ref(k)
//
// Re-layout nodes (Narrow, Concat, Transpose, Reshape) move elements, work for any element type of whole bytes, and
// serve elementwise optimizer state as they serve weights.  Cast computes.  Immutable; thread-safe.

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "checkpoint/base/dtype.h"
#include "checkpoint/tensor/box.h"
#include "checkpoint/tensor/manifest.h"

namespace waypoint {

class Expression;
using Expr = std::shared_ptr<const Expression>;

class Expression {
 public:
  enum class Kind { kRef, kNarrow, kConcat, kTranspose, kReshape, kCast };

  Kind kind() const { return kind_; }
  DType dtype() const { return dtype_; }
  const Dims& shape() const { return shape_; }
  const std::vector<Expr>& inputs() const { return inputs_; }
  const Expr& input() const { return inputs_[0]; }
  // kRef
  const std::string& name() const { return name_; }
  int64_t tensor() const { return tensor_; }  // index into the source's manifest
  // kNarrow, kConcat
  int dim() const { return dim_; }
  // kNarrow
  int64_t start() const { return start_; }
  // kTranspose: dimension d of the result is dimension permutation[d] of the input.
  const std::vector<int>& permutation() const { return permutation_; }

  // "concat(a, b[0:4], dim=0)".
  std::string ToString() const;

 private:
  friend struct ExpressionBuilder;
  Kind kind_ = Kind::kRef;
  DType dtype_ = DType::kInvalid;
  Dims shape_;
  std::vector<Expr> inputs_;
  std::string name_;
  int64_t tensor_ = 0;
  int dim_ = 0;
  int64_t start_ = 0;
  std::vector<int> permutation_;
};

// Constructors.  They fail with E_SHAPE or E_DTYPE, naming the inputs, when the inputs do not fit.  Results are simplified.
Expr Ref(const TensorMeta& tensor, int64_t index);
absl::StatusOr<Expr> Narrow(const Expr& input, int dim, int64_t start, int64_t size);
absl::StatusOr<Expr> Concat(std::vector<Expr> inputs, int dim);
absl::StatusOr<Expr> Transpose(const Expr& input, std::vector<int> permutation);
absl::StatusOr<Expr> Reshape(const Expr& input, absl::Span<const int64_t> shape);
absl::StatusOr<Expr> Cast(const Expr& input, DType dtype);

// Replaces each reference by what `replacement` gives for it (same shape and element type) and simplifies again:
// composition of conversions.
absl::StatusOr<Expr> Substitute(const Expr& expression, const std::function<Expr(const Expression& ref)>& replacement);

// True when the bytes of the result are the bytes of one tensor: a rename.
inline bool IsRef(const Expr& expression) { return expression->kind() == Expression::Kind::kRef; }

// Calls `visit` for every reference, left to right.
void ForEachRef(const Expr& expression, const std::function<void(const Expression& ref)>& visit);

}  // namespace waypoint

#endif  // CHECKPOINT_CONVERT_WEIGHTS_EXPRESSION_H_
