#include "checkpoint/convert/weights/lowering.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"

namespace waypoint {
namespace {

// Can the source cast whatever an expression is made of?
bool CanCastInputs(const Expression& expression, const TensorSource& source) {
  switch (expression.kind()) {
    case Expression::Kind::kRef:
      return source.CanCast(expression.tensor());
    case Expression::Kind::kCast:
      return false;
    default:
      return std::all_of(expression.inputs().begin(), expression.inputs().end(),
                         [&source](const Expr& input) { return CanCastInputs(*input, source); });
  }
}

absl::Status OverflowError(const Expression& cast, int64_t overflows, int64_t elements) {
  return MakeError(ErrorKind::kDType,
                   absl::StrCat("tensor \"", cast.input()->ToString(), "\": ", overflows, " of ", elements,
                                " elements, read together, are finite as ", DTypeTorchName(cast.input()->dtype()),
                                " and would be infinite as ", DTypeTorchName(cast.dtype()),
                                cast.dtype() == DType::kF16 && cast.input()->dtype() != DType::kF64
                                    ? "; bfloat16 and float32 can hold such numbers"
                                    : "; keep the type that they have"));
}

}  // namespace

bool IsCastOnRead(const Expression& cast, const TensorSource* source) {
  return source != nullptr && CanCastInputs(*cast.input(), *source);
}

void Lowering::Add(const Expr& expression, const Box& box, const StridedSpan& to) { Add(expression, box, to, nullptr); }

void Lowering::Add(const Expr& expression, const Box& box, const StridedSpan& to, ElementCast* cast) {
  if (box.empty()) {
    return;
  }
  switch (expression->kind()) {
    case Expression::Kind::kRef:
      requests_.push_back({expression->tensor(), box, to, cast});
      return;
    case Expression::Kind::kNarrow: {
      Box inner = box;
      inner.offsets[expression->dim()] += expression->start();
      Add(expression->input(), inner, to, cast);
      return;
    }
    case Expression::Kind::kTranspose: {
      const std::vector<int>& permutation = expression->permutation();
      Box inner = box;
      std::vector<int> inverse(permutation.size());
      for (size_t d = 0; d < permutation.size(); ++d) {
        inner.offsets[permutation[d]] = box.offsets[d];
        inner.sizes[permutation[d]] = box.sizes[d];
        inverse[permutation[d]] = static_cast<int>(d);
      }
      Add(expression->input(), inner, to.Transpose(inverse), cast);
      return;
    }
    case Expression::Kind::kConcat:
      return AddConcat(*expression, box, to, cast);
    case Expression::Kind::kReshape:
      return AddReshape(*expression, box, to, cast);
    case Expression::Kind::kCast:
      return AddCast(*expression, box, to);
  }
}

void Lowering::AddConcat(const Expression& concat, const Box& box, const StridedSpan& to, ElementCast* cast) {
  const int dim = concat.dim();
  int64_t begin = 0;
  for (const Expr& input : concat.inputs()) {
    const int64_t end = begin + input->shape()[dim];
    const int64_t from = std::max(begin, box.offsets[dim]);
    const int64_t until = std::min(end, box.offsets[dim] + box.sizes[dim]);
    if (from < until) {
      Box inner = box;
      inner.offsets[dim] = from - begin;
      inner.sizes[dim] = until - from;
      Add(input, inner, to.Narrow(dim, from - box.offsets[dim], until - from), cast);
    }
    begin = end;
  }
}

// Each run of the outer side is at most 2 * rank - 1 boxes on the inner side.
void Lowering::AddReshape(const Expression& reshape, const Box& box, const StridedSpan& to, ElementCast* cast) {
  const Dims& inner = reshape.input()->shape();
  ForEachRun(reshape.shape(), box, to, [&](int64_t begin, int64_t elements, char* data, int64_t run_stride) {
    int64_t done = 0;
    for (const Box& part : FlatRangeToBoxes(inner, begin, begin + elements)) {
      StridedSpan span;
      span.data = data + done * run_stride;
      span.element_bytes = to.element_bytes;
      span.sizes = part.sizes;
      span.strides.resize(part.sizes.size());
      int64_t stride = run_stride;
      for (int d = part.rank() - 1; d >= 0; --d) {
        span.strides[d] = stride;
        stride *= inner[d];
      }
      Add(reshape.input(), part, span, cast);
      done += part.num_elements();
    }
  });
}

void Lowering::AddCast(const Expression& cast, const Box& box, const StridedSpan& to) {
  const Expr& input = cast.input();
  PendingCast pending;
  pending.expression = &cast;
  pending.elements = box.num_elements();
  pending.cast = std::make_unique<ElementCast>(input->dtype(), cast.dtype());
  if (IsCastOnRead(cast, source_)) {
    Add(input, box, to, pending.cast.get());
  } else {
    const int from_bytes = DTypeBytes(input->dtype());
    pending.from = StridedSpan::Contiguous(scratch_(pending.elements * from_bytes), from_bytes, box.sizes);
    pending.to = to;
    Add(input, box, pending.from, nullptr);
  }
  casts_.push_back(std::move(pending));
}

absl::Status Lowering::FinishCasts() {
  // An inner cast was added before the one around it.
  for (const PendingCast& pending : casts_) {
    if (pending.from.data != nullptr) {
      const int64_t from_bytes = pending.from.element_bytes;
      ForEachRun(pending.to.sizes, Box::Whole(pending.to.sizes), pending.to,
                 [&](int64_t begin, int64_t elements, char* data, int64_t stride_bytes) {
                   pending.cast->Apply(pending.from.data + begin * from_bytes, data, stride_bytes, elements);
                 });
    }
    if (pending.cast->overflows > 0) {
      return OverflowError(*pending.expression, pending.cast->overflows, pending.elements);
    }
  }
  return absl::OkStatus();
}

std::vector<InputRegion> InputRegions(const Expr& expression, const Box& box) {
  // Spans are computed with, never followed; the address only has to be far from zero.
  char* const nowhere = reinterpret_cast<char*>(uintptr_t{1} << 40);
  Lowering lowering(nullptr, [nowhere](int64_t) { return nowhere; });
  lowering.Add(expression, box, StridedSpan::Contiguous(nowhere, DTypeBytes(expression->dtype()), box.sizes));
  std::vector<InputRegion> regions;
  for (const ReadRequest& request : lowering.requests()) {
    regions.push_back({request.tensor, request.box});
  }
  return regions;
}

}  // namespace waypoint
