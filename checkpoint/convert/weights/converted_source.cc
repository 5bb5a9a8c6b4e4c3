#include "checkpoint/convert/weights/converted_source.h"

#include <algorithm>
#include <utility>

#include "checkpoint/base/status_macros.h"
#include "checkpoint/convert/weights/lowering.h"

namespace waypoint {
namespace {

// Input bytes per output byte of the widest cast in an expression, casts in casts added.  Nothing for casts that the
// source makes.
double CastExpansion(const Expr& expression, const TensorSource* source) {
  double expansion = 0;
  for (const Expr& input : expression->inputs()) {
    expansion = std::max(expansion, CastExpansion(input, source));
  }
  if (expression->kind() == Expression::Kind::kCast && !IsCastOnRead(*expression, source)) {
    const double ratio =
        static_cast<double>(DTypeBytes(expression->input()->dtype())) / DTypeBytes(expression->dtype());
    expansion = ratio * (1 + expansion);
  }
  return expansion;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ConvertedSource>> ConvertedSource::Create(TensorSource* inner,
                                                                         std::vector<ConvertedTensor> tensors) {
  auto source = std::unique_ptr<ConvertedSource>(new ConvertedSource(inner, nullptr));
  WAYPOINT_RETURN_IF_ERROR(source->Init(std::move(tensors)));
  return source;
}

absl::StatusOr<std::unique_ptr<ConvertedSource>> ConvertedSource::Create(std::unique_ptr<TensorSource> inner,
                                                                         std::vector<ConvertedTensor> tensors) {
  TensorSource* borrowed = inner.get();
  auto source = std::unique_ptr<ConvertedSource>(new ConvertedSource(borrowed, std::move(inner)));
  WAYPOINT_RETURN_IF_ERROR(source->Init(std::move(tensors)));
  return source;
}

absl::Status ConvertedSource::Init(std::vector<ConvertedTensor> tensors) {
  if (auto* converted = dynamic_cast<ConvertedSource*>(inner_)) {
    for (ConvertedTensor& tensor : tensors) {
      WAYPOINT_ASSIGN_OR_RETURN(tensor.expression, Substitute(tensor.expression, [converted](const Expression& ref) {
                                  return converted->tensors_[ref.tensor()].expression;
                                }));
    }
    inner_ = converted->inner_;
  }
  tensors_ = std::move(tensors);
  for (const ConvertedTensor& tensor : tensors_) {
    TensorMeta meta;
    meta.name = tensor.name;
    meta.dtype = tensor.expression->dtype();
    meta.shape = tensor.expression->shape();
    WAYPOINT_RETURN_IF_ERROR(manifest_.Add(std::move(meta)));
    cast_expansion_ = std::max(cast_expansion_, CastExpansion(tensor.expression, inner_));
  }
  return absl::OkStatus();
}

int64_t ConvertedSource::ScratchBytes(int64_t block_bytes) const {
  const auto cast_bytes = static_cast<int64_t>(cast_expansion_ * static_cast<double>(block_bytes));
  return cast_bytes + inner_->ScratchBytes(std::max(block_bytes, cast_bytes));
}

void ConvertedSource::Expect(RequestList requests) {
  inner_->Expect([&](absl::FunctionRef<void(absl::Span<const ReadRequest>)> visit) {
    requests([&](absl::Span<const ReadRequest> batch) {
      for (const ReadRequest& request : batch) {
        // One at a time: a re-layout of many runs makes many requests.
        Lowering lowering(inner_, [&request](int64_t) { return request.to.data; });
        lowering.Add(tensors_[request.tensor].expression, request.box, request.to);
        visit(lowering.requests());
      }
    });
  });
}

absl::Status ConvertedSource::Read(absl::Span<const ReadRequest> requests) {
  // One lease serves all casts of a call; a second one is only taken where the first was too small.
  std::vector<BufferPool::Lease> leases;
  int64_t left = 0;
  char* next = nullptr;
  int64_t wanted = 0;
  for (const ReadRequest& request : requests) {
    wanted += NumElements(request.to.sizes) * request.to.element_bytes;
  }
  wanted = static_cast<int64_t>(cast_expansion_ * static_cast<double>(wanted));
  Lowering lowering(inner_, [&](int64_t bytes) {
    bytes = AlignUp(bytes, 64);
    if (bytes > left) {
      left = std::max(bytes, wanted + 64 * static_cast<int64_t>(requests.size()));
      leases.push_back(scratch_.Get(left));
      next = leases.back().data();
    }
    left -= bytes;
    return std::exchange(next, next + bytes);
  });
  for (const ReadRequest& request : requests) {
    lowering.Add(tensors_[request.tensor].expression, request.box, request.to);
  }
  WAYPOINT_RETURN_IF_ERROR(inner_->Read(lowering.requests()));
  return lowering.FinishCasts();
}

}  // namespace waypoint
