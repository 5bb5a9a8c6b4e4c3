#include <utility>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/convert/weights/weight_rules.h"

namespace waypoint {
namespace {

absl::Status CheckCount(const std::vector<Expr>& external, size_t wanted) {
  if (external.size() != wanted) {
    return MakeError(ErrorKind::kShape, absl::StrCat(external.size(), " external tensors, wanted ", wanted));
  }
  return absl::OkStatus();
}

class Rename : public Relayout {
 public:
  absl::StatusOr<Expr> Import(const std::vector<Expr>& external) const override {
    WAYPOINT_RETURN_IF_ERROR(CheckCount(external, 1));
    return external[0];
  }
  absl::StatusOr<std::vector<Expr>> Export(const Expr& native) const override { return std::vector<Expr>{native}; }
};

class ConcatParts : public Relayout {
 public:
  ConcatParts(std::vector<int64_t> part_sizes, int dim) : part_sizes_(std::move(part_sizes)), dim_(dim) {}
  absl::StatusOr<Expr> Import(const std::vector<Expr>& external) const override {
    WAYPOINT_RETURN_IF_ERROR(CheckCount(external, part_sizes_.size()));
    return Concat(external, dim_);
  }
  absl::StatusOr<std::vector<Expr>> Export(const Expr& native) const override {
    std::vector<Expr> parts;
    int64_t start = 0;
    for (const int64_t size : part_sizes_) {
      WAYPOINT_ASSIGN_OR_RETURN(Expr part, Narrow(native, dim_, start, size));
      parts.push_back(std::move(part));
      start += size;
    }
    return parts;
  }

 private:
  const std::vector<int64_t> part_sizes_;
  const int dim_;
};

class Stack : public Relayout {
 public:
  Stack(int64_t count, RelayoutPtr inner, int64_t inner_count)
      : count_(count), inner_(std::move(inner)), inner_count_(inner_count) {}
  absl::StatusOr<Expr> Import(const std::vector<Expr>& external) const override {
    WAYPOINT_RETURN_IF_ERROR(CheckCount(external, count_ * inner_count_));
    std::vector<Expr> slices;
    for (int64_t i = 0; i < count_; ++i) {
      const auto begin = external.begin() + i * inner_count_;
      WAYPOINT_ASSIGN_OR_RETURN(Expr slice, inner_->Import(std::vector<Expr>(begin, begin + inner_count_)));
      Dims shape = slice->shape();
      shape.insert(shape.begin(), 1);
      WAYPOINT_ASSIGN_OR_RETURN(slice, Reshape(slice, shape));
      slices.push_back(std::move(slice));
    }
    return Concat(std::move(slices), 0);
  }
  absl::StatusOr<std::vector<Expr>> Export(const Expr& native) const override {
    std::vector<Expr> external;
    for (int64_t i = 0; i < count_; ++i) {
      WAYPOINT_ASSIGN_OR_RETURN(Expr slice, Narrow(native, 0, i, 1));
      const Dims shape(native->shape().begin() + 1, native->shape().end());
      WAYPOINT_ASSIGN_OR_RETURN(slice, Reshape(slice, shape));
      WAYPOINT_ASSIGN_OR_RETURN(std::vector<Expr> parts, inner_->Export(slice));
      external.insert(external.end(), parts.begin(), parts.end());
    }
    return external;
  }

 private:
  const int64_t count_;
  const RelayoutPtr inner_;
  const int64_t inner_count_;
};

class Permute : public Relayout {
 public:
  explicit Permute(std::vector<int> native_to_external) : forward_(std::move(native_to_external)) {
    inverse_.resize(forward_.size());
    for (size_t d = 0; d < forward_.size(); ++d) {
      inverse_[forward_[d]] = static_cast<int>(d);
    }
  }
  absl::StatusOr<Expr> Import(const std::vector<Expr>& external) const override {
    WAYPOINT_RETURN_IF_ERROR(CheckCount(external, 1));
    return Transpose(external[0], inverse_);
  }
  absl::StatusOr<std::vector<Expr>> Export(const Expr& native) const override {
    WAYPOINT_ASSIGN_OR_RETURN(Expr external, Transpose(native, forward_));
    return std::vector<Expr>{external};
  }

 private:
  const std::vector<int> forward_;
  std::vector<int> inverse_;
};

class ReshapeBetween : public Relayout {
 public:
  ReshapeBetween(Dims native_shape, Dims external_shape)
      : native_shape_(std::move(native_shape)), external_shape_(std::move(external_shape)) {}
  absl::StatusOr<Expr> Import(const std::vector<Expr>& external) const override {
    WAYPOINT_RETURN_IF_ERROR(CheckCount(external, 1));
    return Reshape(external[0], native_shape_);
  }
  absl::StatusOr<std::vector<Expr>> Export(const Expr& native) const override {
    WAYPOINT_ASSIGN_OR_RETURN(Expr external, Reshape(native, external_shape_));
    return std::vector<Expr>{external};
  }

 private:
  const Dims native_shape_;
  const Dims external_shape_;
};

class RotaryInterleave : public Relayout {
 public:
  RotaryInterleave(int64_t heads, int64_t head_size) : heads_(heads), head_size_(head_size) {}
  absl::StatusOr<Expr> Import(const std::vector<Expr>& external) const override {
    WAYPOINT_RETURN_IF_ERROR(CheckCount(external, 1));
    return SwapChannels(external[0], head_size_ / 2, 2);
  }
  absl::StatusOr<std::vector<Expr>> Export(const Expr& native) const override {
    WAYPOINT_ASSIGN_OR_RETURN(Expr external, SwapChannels(native, 2, head_size_ / 2));
    return std::vector<Expr>{external};
  }

 private:
  // Rows as (heads, a, b) become (heads, b, a).
  absl::StatusOr<Expr> SwapChannels(const Expr& input, int64_t a, int64_t b) const {
    Dims split = {heads_, a, b};
    std::vector<int> permutation = {0, 2, 1};
    for (size_t d = 1; d < input->shape().size(); ++d) {
      split.push_back(input->shape()[d]);
      permutation.push_back(static_cast<int>(d) + 2);
    }
    WAYPOINT_ASSIGN_OR_RETURN(Expr channels, Reshape(input, split));
    WAYPOINT_ASSIGN_OR_RETURN(channels, Transpose(channels, std::move(permutation)));
    return Reshape(channels, input->shape());
  }

  const int64_t heads_;
  const int64_t head_size_;
};

}  // namespace

RelayoutPtr RenameRelayout() { return std::make_shared<Rename>(); }
RelayoutPtr ConcatRelayout(std::vector<int64_t> part_sizes, int dim) {
  return std::make_shared<ConcatParts>(std::move(part_sizes), dim);
}
RelayoutPtr StackRelayout(int64_t count) { return std::make_shared<Stack>(count, RenameRelayout(), 1); }
RelayoutPtr StackRelayout(int64_t count, RelayoutPtr inner, int64_t inner_count) {
  return std::make_shared<Stack>(count, std::move(inner), inner_count);
}
RelayoutPtr TransposeRelayout(std::vector<int> native_to_external) {
  return std::make_shared<Permute>(std::move(native_to_external));
}
RelayoutPtr ReshapeRelayout(Dims native_shape, Dims external_shape) {
  return std::make_shared<ReshapeBetween>(std::move(native_shape), std::move(external_shape));
}
RelayoutPtr RotaryInterleaveRelayout(int64_t heads, int64_t head_size) {
  return std::make_shared<RotaryInterleave>(heads, head_size);
}

}  // namespace waypoint
