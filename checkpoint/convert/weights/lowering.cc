#include "checkpoint/convert/weights/lowering.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/convert/weights/cast.h"

namespace waypoint {
namespace {

// Casts one contiguous array to strided memory, row by row.  Returns how many elements overflow.
int64_t CastStrided(DType from_dtype, const char* from, DType to_dtype, const StridedSpan& to, int dim,
                    int64_t* position) {
  const int64_t from_bytes = DTypeBytes(from_dtype);
  const int rank = static_cast<int>(to.sizes.size());
  if (dim == rank - 1 && to.strides[dim] == to.element_bytes) {
    const int64_t begin = *position;
    *position += to.sizes[dim];
    return CastElements(from_dtype, from + begin * from_bytes, to_dtype, to.data, to.sizes[dim]);
  }
  if (dim == rank) {
    return CastElements(from_dtype, from + (*position)++ * from_bytes, to_dtype, to.data, 1);
  }
  int64_t overflows = 0;
  StridedSpan part = to;
  for (int64_t i = 0; i < to.sizes[dim]; ++i) {
    part.data = to.data + i * to.strides[dim];
    overflows += CastStrided(from_dtype, from, to_dtype, part, dim + 1, position);
  }
  return overflows;
}

absl::Status OverflowError(const Expression& cast, int64_t overflows, int64_t elements) {
  return MakeError(ErrorKind::kDType,
                   absl::StrCat("tensor \"", cast.input()->ToString(), "\": ", overflows, " of ", elements,
                                " elements, read together, are finite as ", DTypeTorchName(cast.input()->dtype()),
                                " and would be infinite as ", DTypeTorchName(cast.dtype()), "; ",
                                cast.dtype() == DType::kF16    ? "bfloat16 and float32 can"
                                : cast.dtype() == DType::kBF16 ? "float32 can"
                                                               : "float64 can",
                                " hold such numbers"));
}

}  // namespace

void Lowering::Add(const Expr& expression, const Box& box, const StridedSpan& to) {
  if (box.empty()) {
    return;
  }
  switch (expression->kind()) {
    case Expression::Kind::kRef:
      requests_.push_back({expression->tensor(), box, to});
      return;
    case Expression::Kind::kNarrow: {
      Box inner = box;
      inner.offsets[expression->dim()] += expression->start();
      Add(expression->input(), inner, to);
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
      Add(expression->input(), inner, to.Transpose(inverse));
      return;
    }
    case Expression::Kind::kConcat:
      return AddConcat(*expression, box, to);
    case Expression::Kind::kReshape:
      return AddReshape(*expression, box, to);
    case Expression::Kind::kCast:
      return AddCast(*expression, box, to);
  }
}

void Lowering::AddConcat(const Expression& concat, const Box& box, const StridedSpan& to) {
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
      Add(input, inner, to.Narrow(dim, from - box.offsets[dim], until - from));
    }
    begin = end;
  }
}

// Each run of the outer side is at most 2 * rank - 1 boxes on the inner side.
void Lowering::AddReshape(const Expression& reshape, const Box& box, const StridedSpan& to) {
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
      Add(reshape.input(), part, span);
      done += part.num_elements();
    }
  });
}

void Lowering::AddCast(const Expression& cast, const Box& box, const StridedSpan& to) {
  const Expr& input = cast.input();
  const int from_bytes = DTypeBytes(input->dtype());
  PendingCast pending;
  pending.cast = &cast;
  pending.from = StridedSpan::Contiguous(scratch_(box.num_elements() * from_bytes), from_bytes, box.sizes);
  pending.to = to;
  Add(input, box, pending.from);
  casts_.push_back(std::move(pending));
}

absl::Status Lowering::FinishCasts() {
  // An inner cast was added before the one around it.
  for (const PendingCast& pending : casts_) {
    const DType from_dtype = pending.cast->input()->dtype();
    const DType to_dtype = pending.cast->dtype();
    const int64_t elements = NumElements(pending.to.sizes);
    int64_t position = 0;
    const int64_t overflows = pending.to.IsContiguous()
                                  ? CastElements(from_dtype, pending.from.data, to_dtype, pending.to.data, elements)
                                  : CastStrided(from_dtype, pending.from.data, to_dtype, pending.to, 0, &position);
    if (overflows > 0) {
      return OverflowError(*pending.cast, overflows, elements);
    }
  }
  return absl::OkStatus();
}

std::vector<InputRegion> InputRegions(const Expr& expression, const Box& box) {
  // Spans are computed with, never followed; the address only has to be far from zero.
  char* const nowhere = reinterpret_cast<char*>(uintptr_t{1} << 40);
  Lowering lowering([nowhere](int64_t) { return nowhere; });
  lowering.Add(expression, box, StridedSpan::Contiguous(nowhere, DTypeBytes(expression->dtype()), box.sizes));
  std::vector<InputRegion> regions;
  for (const ReadRequest& request : lowering.requests()) {
    regions.push_back({request.tensor, request.box});
  }
  return regions;
}

}  // namespace waypoint
