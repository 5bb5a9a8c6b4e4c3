#include "checkpoint/convert/weights/expression.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "checkpoint/base/checked_math.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"

namespace waypoint {

struct ExpressionBuilder {
  static std::shared_ptr<Expression> New(Expression::Kind kind, DType dtype, Dims shape, std::vector<Expr> inputs) {
    auto expression = std::make_shared<Expression>();
    expression->kind_ = kind;
    expression->dtype_ = dtype;
    expression->shape_ = std::move(shape);
    expression->inputs_ = std::move(inputs);
    return expression;
  }
  static Expr Ref(const TensorMeta& tensor, int64_t index) {
    auto expression = New(Expression::Kind::kRef, tensor.dtype, tensor.shape, {});
    expression->name_ = tensor.name;
    expression->tensor_ = index;
    return expression;
  }
  static Expr Narrow(const Expr& input, int dim, int64_t start, int64_t size) {
    Dims shape = input->shape();
    shape[dim] = size;
    auto expression = New(Expression::Kind::kNarrow, input->dtype(), std::move(shape), {input});
    expression->dim_ = dim;
    expression->start_ = start;
    return expression;
  }
  static Expr Concat(std::vector<Expr> inputs, int dim, int64_t size) {
    Dims shape = inputs[0]->shape();
    shape[dim] = size;
    // Before the inputs are moved from: arguments are evaluated in any order.
    const DType dtype = inputs[0]->dtype();
    auto expression = New(Expression::Kind::kConcat, dtype, std::move(shape), std::move(inputs));
    expression->dim_ = dim;
    return expression;
  }
  static Expr Transpose(const Expr& input, std::vector<int> permutation) {
    Dims shape;
    for (const int d : permutation) {
      shape.push_back(input->shape()[d]);
    }
    auto expression = New(Expression::Kind::kTranspose, input->dtype(), std::move(shape), {input});
    expression->permutation_ = std::move(permutation);
    return expression;
  }
};

namespace {

using Kind = Expression::Kind;

// The dimensions that are not 1, by index: a reshape that keeps them only adds or drops ones.
std::vector<int> ProperDims(absl::Span<const int64_t> shape) {
  std::vector<int> dims;
  for (size_t d = 0; d < shape.size(); ++d) {
    if (shape[d] != 1) {
      dims.push_back(static_cast<int>(d));
    }
  }
  return dims;
}

// For a reshape that only adds or drops dimensions of size 1: the input's dimension that is dimension `dim` of the
// result, or -1.
int DimThroughReshape(const Expression& reshape, int dim) {
  const Dims& from = reshape.input()->shape();
  const std::vector<int> from_dims = ProperDims(from);
  const std::vector<int> to_dims = ProperDims(reshape.shape());
  if (from_dims.size() != to_dims.size()) {
    return -1;
  }
  int found = -1;
  for (size_t i = 0; i < to_dims.size(); ++i) {
    if (from[from_dims[i]] != reshape.shape()[to_dims[i]]) {
      return -1;
    }
    if (to_dims[i] == dim) {
      found = from_dims[i];
    }
  }
  return found;
}

// The same tree.
bool IsEqual(const Expr& a, const Expr& b) {
  if (a == b) {
    return true;
  }
  if (a->kind() != b->kind() || a->dtype() != b->dtype() || a->shape() != b->shape() || a->dim() != b->dim() ||
      a->start() != b->start() || a->permutation() != b->permutation() || a->tensor() != b->tensor() ||
      a->name() != b->name() || a->inputs().size() != b->inputs().size()) {
    return false;
  }
  return std::equal(a->inputs().begin(), a->inputs().end(), b->inputs().begin(), IsEqual);
}

// b begins along dim where a ends, in one input.
bool IsAdjacent(const Expr& a, const Expr& b, int dim) {
  return a->kind() == Kind::kNarrow && b->kind() == Kind::kNarrow && a->dim() == dim && b->dim() == dim &&
         a->start() + a->shape()[dim] == b->start() && IsEqual(a->input(), b->input());
}

std::string Operand(const Expr& expression) { return absl::StrCat(expression->ToString(), " ", ShapeString(expression->shape())); }

}  // namespace

std::string Expression::ToString() const {
  switch (kind_) {
    case Kind::kRef:
      return name_;
    case Kind::kNarrow: {
      std::vector<std::string> ranges(shape_.size(), ":");
      ranges[dim_] = absl::StrCat(start_, ":", start_ + shape_[dim_]);
      ranges.resize(dim_ + 1);
      return absl::StrCat(input()->ToString(), "[", absl::StrJoin(ranges, ", "), "]");
    }
    case Kind::kConcat:
      return absl::StrCat("concat(",
                          absl::StrJoin(inputs_, ", ",
                                        [](std::string* out, const Expr& input) { out->append(input->ToString()); }),
                          ", dim=", dim_, ")");
    case Kind::kTranspose:
      return absl::StrCat("transpose(", input()->ToString(), ", [", absl::StrJoin(permutation_, ", "), "])");
    case Kind::kReshape:
      return absl::StrCat("reshape(", input()->ToString(), ", ", ShapeString(shape_), ")");
    case Kind::kCast:
      return absl::StrCat("cast(", input()->ToString(), ", ", DTypeTorchName(dtype_), ")");
  }
  return "";
}

Expr Ref(const TensorMeta& tensor, int64_t index) { return ExpressionBuilder::Ref(tensor, index); }

absl::StatusOr<Expr> Narrow(const Expr& input, int dim, int64_t start, int64_t size) {
  const int rank = static_cast<int>(input->shape().size());
  if (dim < 0 || dim >= rank || start < 0 || size < 0 || start > input->shape()[dim] ||
      size > input->shape()[dim] - start) {
    return MakeError(ErrorKind::kShape, absl::StrCat("cannot take [", start, ", ", start + size, ") of dimension ", dim,
                                                     " of ", Operand(input)));
  }
  if (start == 0 && size == input->shape()[dim]) {
    return input;
  }
  switch (input->kind()) {
    case Kind::kNarrow:
      if (input->dim() == dim) {
        return Narrow(input->input(), dim, input->start() + start, size);
      }
      break;
    case Kind::kCast: {
      WAYPOINT_ASSIGN_OR_RETURN(Expr part, Narrow(input->input(), dim, start, size));
      return Cast(part, input->dtype());
    }
    case Kind::kTranspose: {
      WAYPOINT_ASSIGN_OR_RETURN(Expr part, Narrow(input->input(), input->permutation()[dim], start, size));
      return Transpose(part, input->permutation());
    }
    case Kind::kReshape: {
      const int inner = DimThroughReshape(*input, dim);
      if (inner >= 0 && size > 0) {
        WAYPOINT_ASSIGN_OR_RETURN(Expr part, Narrow(input->input(), inner, start, size));
        Dims shape = input->shape();
        shape[dim] = size;
        return Reshape(part, shape);
      }
      break;
    }
    case Kind::kConcat: {
      std::vector<Expr> parts;
      int64_t begin = 0;
      for (const Expr& part : input->inputs()) {
        if (input->dim() != dim) {
          WAYPOINT_ASSIGN_OR_RETURN(Expr narrowed, Narrow(part, dim, start, size));
          parts.push_back(std::move(narrowed));
          continue;
        }
        const int64_t end = begin + part->shape()[dim];
        const int64_t from = std::max(begin, start);
        const int64_t to = std::min(end, start + size);
        if (from < to) {
          WAYPOINT_ASSIGN_OR_RETURN(Expr narrowed, Narrow(part, dim, from - begin, to - from));
          parts.push_back(std::move(narrowed));
        }
        begin = end;
      }
      if (!parts.empty()) {
        return Concat(std::move(parts), input->dim());
      }
      break;
    }
    case Kind::kRef:
      break;
  }
  return ExpressionBuilder::Narrow(input, dim, start, size);
}

absl::StatusOr<Expr> Concat(std::vector<Expr> inputs, int dim) {
  if (inputs.empty()) {
    return MakeError(ErrorKind::kShape, "nothing to concatenate");
  }
  std::vector<Expr> parts;
  int64_t total = 0;
  for (const Expr& input : inputs) {
    Dims shape = input->shape();
    Dims first = inputs[0]->shape();
    const bool fits = dim >= 0 && dim < static_cast<int>(shape.size()) && shape.size() == first.size();
    if (fits) {
      shape[dim] = first[dim] = 0;
    }
    if (!fits || shape != first || !CheckedAdd(total, input->shape()[dim], &total)) {
      return MakeError(ErrorKind::kShape, absl::StrCat("cannot concatenate ", Operand(inputs[0]), " and ",
                                                       Operand(input), " along dimension ", dim));
    }
    if (input->dtype() != inputs[0]->dtype()) {
      return MakeError(ErrorKind::kDType,
                       absl::StrCat("cannot concatenate ", inputs[0]->ToString(), " (", DTypeName(inputs[0]->dtype()),
                                    ") and ", input->ToString(), " (", DTypeName(input->dtype()), ")"));
    }
    // Flatten, and rejoin neighbours that were one tensor.
    const bool nested = input->kind() == Kind::kConcat && input->dim() == dim;
    for (const Expr& part : nested ? input->inputs() : std::vector<Expr>{input}) {
      if (!parts.empty() && IsAdjacent(parts.back(), part, dim)) {
        WAYPOINT_ASSIGN_OR_RETURN(Expr joined,
                                  Narrow(part->input(), dim, parts.back()->start(),
                                         parts.back()->shape()[dim] + part->shape()[dim]));
        parts.back() = std::move(joined);
      } else {
        parts.push_back(part);
      }
    }
  }
  if (parts.size() == 1) {
    return parts[0];
  }
  // Parts that only add or drop ones are concatenated before that, where they may rejoin.
  const int inner_dim = parts[0]->kind() == Kind::kReshape ? DimThroughReshape(*parts[0], dim) : -1;
  const auto is_squeezed = [&parts, dim, inner_dim](const Expr& part) {
    if (part->kind() != Kind::kReshape || DimThroughReshape(*part, dim) != inner_dim) {
      return false;
    }
    Dims shape = part->input()->shape();
    Dims first = parts[0]->input()->shape();
    if (shape.size() != first.size()) {
      return false;
    }
    shape[inner_dim] = first[inner_dim] = 0;
    return shape == first;
  };
  if (inner_dim >= 0 && std::all_of(parts.begin(), parts.end(), is_squeezed)) {
    Dims shape = parts[0]->shape();
    shape[dim] = total;
    for (Expr& part : parts) {
      part = Expr(part->input());
    }
    WAYPOINT_ASSIGN_OR_RETURN(Expr whole, Concat(std::move(parts), inner_dim));
    return Reshape(whole, shape);
  }
  // One cast behind the concatenation instead of one per part, where all parts had one type before.
  const auto is_cast = [&parts](const Expr& part) {
    return part->kind() == Kind::kCast && part->input()->dtype() == parts[0]->input()->dtype();
  };
  if (parts[0]->kind() == Kind::kCast && std::all_of(parts.begin(), parts.end(), is_cast)) {
    const DType dtype = parts[0]->dtype();
    for (Expr& part : parts) {
      part = Expr(part->input());
    }
    WAYPOINT_ASSIGN_OR_RETURN(Expr whole, Concat(std::move(parts), dim));
    return Cast(whole, dtype);
  }
  return ExpressionBuilder::Concat(std::move(parts), dim, total);
}

absl::StatusOr<Expr> Transpose(const Expr& input, std::vector<int> permutation) {
  std::vector<int> sorted = permutation;
  std::sort(sorted.begin(), sorted.end());
  bool valid = sorted.size() == input->shape().size();
  bool identity = valid;
  for (size_t d = 0; valid && d < sorted.size(); ++d) {
    valid = sorted[d] == static_cast<int>(d);
    identity = identity && permutation[d] == static_cast<int>(d);
  }
  if (!valid) {
    return MakeError(ErrorKind::kShape, absl::StrCat("[", absl::StrJoin(permutation, ", "),
                                                     "] is no permutation of the dimensions of ", Operand(input)));
  }
  if (identity) {
    return input;
  }
  if (input->kind() == Kind::kTranspose) {
    std::vector<int> composed;
    for (const int d : permutation) {
      composed.push_back(input->permutation()[d]);
    }
    return Transpose(input->input(), std::move(composed));
  }
  if (input->kind() == Kind::kCast) {
    WAYPOINT_ASSIGN_OR_RETURN(Expr inner, Transpose(input->input(), std::move(permutation)));
    return Cast(inner, input->dtype());
  }
  return ExpressionBuilder::Transpose(input, std::move(permutation));
}

absl::StatusOr<Expr> Reshape(const Expr& input, absl::Span<const int64_t> shape) {
  int64_t elements = 0;
  if (!CheckedNumElements(shape, &elements) || elements != NumElements(input->shape())) {
    return MakeError(ErrorKind::kShape, absl::StrCat("cannot reshape ", Operand(input), " to ", ShapeString(shape)));
  }
  if (input->shape() == Dims(shape.begin(), shape.end())) {
    return input;
  }
  if (input->kind() == Kind::kReshape) {
    return Reshape(input->input(), shape);
  }
  if (input->kind() == Kind::kCast) {
    WAYPOINT_ASSIGN_OR_RETURN(Expr inner, Reshape(input->input(), shape));
    return Cast(inner, input->dtype());
  }
  return ExpressionBuilder::New(Kind::kReshape, input->dtype(), Dims(shape.begin(), shape.end()), {input});
}

absl::StatusOr<Expr> Cast(const Expr& input, DType dtype) {
  if (input->dtype() == dtype) {
    return input;
  }
  if (!IsCastable(input->dtype()) || !IsCastable(dtype)) {
    return MakeError(ErrorKind::kDType, absl::StrCat("cannot cast ", input->ToString(), " from ",
                                                     DTypeName(input->dtype()), " to ", DTypeName(dtype)));
  }
  if (input->kind() == Kind::kCast) {
    // float32 and float64 hold every value of the narrower types, so that widening before is no step of its own.
    const DType before = input->input()->dtype();
    const bool widened = (input->dtype() == DType::kF32 && before != DType::kF64) || input->dtype() == DType::kF64;
    if (widened) {
      return Cast(input->input(), dtype);
    }
  }
  return ExpressionBuilder::New(Kind::kCast, dtype, input->shape(), {input});
}

absl::StatusOr<Expr> Substitute(const Expr& expression, const std::function<Expr(const Expression& ref)>& replacement) {
  if (IsRef(expression)) {
    Expr replaced = replacement(*expression);
    if (replaced->shape() != expression->shape() || replaced->dtype() != expression->dtype()) {
      return MakeError(ErrorKind::kShape, absl::StrCat("\"", expression->name(), "\" ", Operand(expression),
                                                       " cannot be replaced by ", Operand(replaced)));
    }
    return replaced;
  }
  std::vector<Expr> inputs;
  for (const Expr& input : expression->inputs()) {
    WAYPOINT_ASSIGN_OR_RETURN(Expr replaced, Substitute(input, replacement));
    inputs.push_back(std::move(replaced));
  }
  switch (expression->kind()) {
    case Kind::kNarrow:
      return Narrow(inputs[0], expression->dim(), expression->start(), expression->shape()[expression->dim()]);
    case Kind::kConcat:
      return Concat(std::move(inputs), expression->dim());
    case Kind::kTranspose:
      return Transpose(inputs[0], expression->permutation());
    case Kind::kReshape:
      return Reshape(inputs[0], expression->shape());
    case Kind::kCast:
      return Cast(inputs[0], expression->dtype());
    case Kind::kRef:
      break;
  }
  return expression;
}

void ForEachRef(const Expr& expression, const std::function<void(const Expression& ref)>& visit) {
  if (IsRef(expression)) {
    visit(*expression);
  }
  for (const Expr& input : expression->inputs()) {
    ForEachRef(input, visit);
  }
}

}  // namespace waypoint
