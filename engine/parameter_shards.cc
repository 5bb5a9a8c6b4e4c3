#include "engine/parameter_shards.h"

#include <algorithm>

#include "ATen/ATen.h"
#include "c10/core/GradMode.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/tensor/box.h"
#include "optimizer/clip.h"

namespace waypoint::engine {
namespace {

// Large enough to hide latency, small enough to be nothing beside the model.
constexpr int64_t kBucketElements = int64_t{8} << 20;

at::IntArrayRef Sizes(const Dims& dims) { return {dims.data(), dims.size()}; }

bool IsWhole(const models::ShardedParameter& parameter) {
  return parameter.boxes.size() == 1 && parameter.boxes[0] == Box::Whole(parameter.shape);
}

}  // namespace

ParameterShards::ParameterShards(models::DecoderModule& model, ProcessGroups& groups, MeshConfig::Zero zero)
    : model_(model), groups_(groups), zero_(groups.shape().data == 1 ? MeshConfig::NONE : zero) {
  const c10::NoGradGuard no_grad;
  for (size_t i = 0; i < model_.parameters().size(); ++i) {
    const auto& [name, whole] = model_.parameters()[i];
    index_of_[name] = i;
    if (!divided()) {
      updated_.emplace_back(name, whole);
      continue;
    }
    const models::IndexRange range = RangeOf(i, groups_.here().data);
    at::Tensor part = whole.detach().view({-1}).narrow(0, range.begin, range.size());
    if (whole.dim() >= 2) {
      part = part.unsqueeze(0);  // the optimizer tells matrices from vectors by their dimensions
    }
    if (zero_ == MeshConfig::WEIGHTS) {
      part = part.clone();
    }
    updated_.emplace_back(name, part.set_requires_grad(whole.requires_grad()));
  }
  trained_ = MakeBuckets(/*frozen=*/false);
  frozen_ = MakeBuckets(/*frozen=*/true);
  if (zero_ == MeshConfig::WEIGHTS) {
    for (size_t i = 0; i < updated_.size(); ++i) {
      parameter(i).set_data(at::empty({0}, parameter(i).options()));
    }
  }
}

models::IndexRange ParameterShards::RangeOf(size_t index, int data) const {
  const int64_t elements = NumElements(model_.sharded()[index].local_shape);
  return divided() ? models::PartOf(elements, data, groups_.shape().data) : models::IndexRange{0, elements};
}

std::vector<ParameterShards::Bucket> ParameterShards::MakeBuckets(bool frozen) const {
  std::vector<Bucket> buckets;
  for (size_t i = 0; i < updated_.size(); ++i) {
    if (updated_[i].second.requires_grad() == frozen) {
      continue;
    }
    const int64_t more = NumElements(model_.sharded()[i].local_shape);
    if (buckets.empty() || buckets.back().elements + more > kBucketElements) {
      buckets.emplace_back();
    }
    Bucket& bucket = buckets.back();
    bucket.parameters.push_back(i);
    bucket.elements += more;
    // The first data rank's parts are the largest ones.
    bucket.part_elements += RangeOf(i, 0).size();
  }
  return buckets;
}

absl::Status ParameterShards::BeginStep() {
  if (zero_ != MeshConfig::WEIGHTS) {
    return absl::OkStatus();
  }
  const c10::NoGradGuard no_grad;
  for (size_t i = 0; i < updated_.size(); ++i) {
    parameter(i).set_data(at::empty(Sizes(model_.sharded()[i].local_shape), parameter(i).options()));
  }
  WAYPOINT_RETURN_IF_ERROR(GatherWeights(frozen_));
  return GatherWeights(trained_);
}

absl::Status ParameterShards::EndStep() {
  return zero_ == MeshConfig::OPTIMIZER ? GatherWeights(trained_) : absl::OkStatus();
}

absl::Status ParameterShards::ShareLoaded() {
  WAYPOINT_RETURN_IF_ERROR(zero_ == MeshConfig::OPTIMIZER ? GatherWeights(frozen_) : absl::OkStatus());
  return EndStep();
}

absl::Status ParameterShards::GatherWeights(const std::vector<Bucket>& buckets) {
  const c10::NoGradGuard no_grad;
  for (const Bucket& bucket : buckets) {
    const at::Tensor mine =
        at::zeros({bucket.part_elements}, parameter(bucket.parameters[0]).options().requires_grad(false));
    int64_t at = 0;
    for (const size_t i : bucket.parameters) {
      const at::Tensor& part = updated_[i].second;
      mine.narrow(0, at, part.numel()).copy_(part.view({-1}));
      at += part.numel();
    }
    WAYPOINT_ASSIGN_OR_RETURN(const std::vector<at::Tensor> parts, groups_.AllGather(MeshAxis::kData, mine));
    for (int data = 0; data < groups_.shape().data; ++data) {
      at = 0;
      for (const size_t i : bucket.parameters) {
        const models::IndexRange range = RangeOf(i, data);
        parameter(i).view({-1}).narrow(0, range.begin, range.size()).copy_(parts[data].narrow(0, at, range.size()));
        at += range.size();
      }
    }
  }
  return absl::OkStatus();
}

// Both stages add the other's gradient to their own, which gives both the same bits.
absl::Status ParameterShards::SumTiedGradients() {
  const int stages = groups_.shape().pipeline;
  const auto found = index_of_.find("embeddings.word_embeddings_weight");
  if (stages == 1 || !model_.config().tied_embedding_weight() || found == index_of_.end() ||
      !parameter(found->second).requires_grad()) {
    return absl::OkStatus();
  }
  const bool first = groups_.here().pipeline == 0;
  const at::Tensor gradient = parameter(found->second).grad().contiguous();
  const at::Tensor other = at::empty_like(gradient);
  const int partner = first ? stages - 1 : 0;
  // A send waits for its receiver, so one of the two receives first.
  if (first) {
    WAYPOINT_RETURN_IF_ERROR(groups_.Send(MeshAxis::kPipeline, gradient, partner));
    WAYPOINT_RETURN_IF_ERROR(groups_.Recv(MeshAxis::kPipeline, other, partner));
  } else {
    WAYPOINT_RETURN_IF_ERROR(groups_.Recv(MeshAxis::kPipeline, other, partner));
    WAYPOINT_RETURN_IF_ERROR(groups_.Send(MeshAxis::kPipeline, gradient, partner));
  }
  parameter(found->second).mutable_grad() = gradient + other;
  return absl::OkStatus();
}

absl::Status ParameterShards::SumBucket(const Bucket& bucket) {
  std::vector<at::Tensor> gradients;
  for (const size_t i : bucket.parameters) {
    if (parameter(i).grad().defined()) {
      gradients.push_back(parameter(i).grad().reshape({-1}).to(at::kFloat));
    }
  }
  if (gradients.empty()) {
    return absl::OkStatus();
  }
  const at::Tensor sum = at::cat(gradients);
  WAYPOINT_RETURN_IF_ERROR(groups_.AllReduceSum(MeshAxis::kData, sum));
  int64_t at = 0;
  for (const size_t i : bucket.parameters) {
    const at::Tensor gradient = parameter(i).grad();
    if (gradient.defined()) {
      gradient.copy_(sum.narrow(0, at, gradient.numel()).view(gradient.sizes()));
      at += gradient.numel();
    }
  }
  return absl::OkStatus();
}

absl::Status ParameterShards::SumBucketToParts(const Bucket& bucket) {
  const int64_t part = bucket.part_elements;
  const int data_ranks = groups_.shape().data;
  const at::Tensor values = at::zeros({part * data_ranks}, at::TensorOptions(at::kFloat).device(groups_.device()));
  for (int data = 0; data < data_ranks; ++data) {
    int64_t at = part * data;
    for (const size_t i : bucket.parameters) {
      const models::IndexRange range = RangeOf(i, data);
      const at::Tensor gradient = parameter(i).grad();
      if (gradient.defined()) {
        values.narrow(0, at, range.size()).copy_(gradient.reshape({-1}).narrow(0, range.begin, range.size()));
      }
      at += range.size();
    }
  }
  WAYPOINT_ASSIGN_OR_RETURN(const at::Tensor mine, groups_.ReduceScatterSum(MeshAxis::kData, values));
  int64_t at = 0;
  for (const size_t i : bucket.parameters) {
    const at::Tensor& updated = updated_[i].second;
    if (parameter(i).grad().defined()) {
      updated.mutable_grad() =
          mine.narrow(0, at, updated.numel()).view(updated.sizes()).to(updated.scalar_type(), false, /*copy=*/true);
      parameter(i).mutable_grad().reset();
    }
    at += updated.numel();
  }
  return absl::OkStatus();
}

absl::Status ParameterShards::ReduceGradients() {
  const c10::NoGradGuard no_grad;
  WAYPOINT_RETURN_IF_ERROR(SumTiedGradients());
  if (groups_.shape().data > 1) {
    for (const Bucket& bucket : trained_) {
      WAYPOINT_RETURN_IF_ERROR(divided() ? SumBucketToParts(bucket) : SumBucket(bucket));
    }
  }
  if (zero_ == MeshConfig::WEIGHTS) {
    for (size_t i = 0; i < updated_.size(); ++i) {
      parameter(i).set_data(at::empty({0}, parameter(i).options()));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<double> ParameterShards::SumOfSquaredGradients() {
  std::vector<std::pair<std::string, at::Tensor>> counted;
  for (size_t i = 0; i < updated_.size(); ++i) {
    const models::ShardedParameter& sharded = model_.sharded()[i];
    const bool tensor_replica = !sharded.cut && groups_.here().tensor > 0;
    const bool data_replica = !divided() && groups_.here().data > 0;
    if (!tensor_replica && !data_replica && !sharded.tied_copy) {
      counted.push_back(updated_[i]);
    }
  }
  const at::Tensor sum = at::full({1}, waypoint::SumOfSquaredGradients(counted), at::kDouble);
  WAYPOINT_RETURN_IF_ERROR(groups_.AllReduceSum(MeshAxis::kWorld, sum));
  return sum.item<double>();
}

// `values`: the elements `range` of the rank's tensor.
void ParameterShards::AppendBoxes(size_t index, models::IndexRange range, const std::string& name,
                                  const at::Tensor& values, LiveState& state) const {
  const models::ShardedParameter& sharded = model_.sharded()[index];
  if (!divided() && IsWhole(sharded)) {
    state.push_back({name, values.detach()});
    return;
  }
  const at::Tensor flat = values.detach().view({-1});
  int64_t box_begin = 0;
  for (const Box& held : sharded.boxes) {
    const int64_t box_end = box_begin + held.num_elements();
    const int64_t end = std::min(range.end, box_end);
    int64_t at = std::max(range.begin, box_begin);
    if (at < end) {
      for (Box& run : FlatRangeToBoxes(held.sizes, at - box_begin, end - box_begin)) {
        const int64_t elements = run.num_elements();
        const at::Tensor part = flat.narrow(0, at - range.begin, elements).view(Sizes(run.sizes));
        for (int d = 0; d < run.rank(); ++d) {
          run.offsets[d] += held.offsets[d];
        }
        state.push_back({name, part, sharded.shape, std::move(run)});
        at += elements;
      }
    }
    box_begin = box_end;
  }
}

LiveState ParameterShards::Weights() const {
  LiveState state;
  for (size_t i = 0; i < updated_.size(); ++i) {
    const auto& [name, part] = updated_[i];
    if (zero_ == MeshConfig::OPTIMIZER) {
      // All data ranks hold all of them, so that any may write any part.
      const at::Tensor& whole = parameter(i);
      AppendBoxes(i, {0, whole.numel()}, name, whole, state);
    } else {
      AppendBoxes(i, RangeOf(i, groups_.here().data), name, part, state);
    }
  }
  return state;
}

void ParameterShards::AppendLike(const std::string& parameter, const std::string& name, const at::Tensor& tensor,
                                 LiveState& state) const {
  const size_t index = index_of_.at(parameter);
  AppendBoxes(index, RangeOf(index, groups_.here().data), name, tensor, state);
}

}  // namespace waypoint::engine
