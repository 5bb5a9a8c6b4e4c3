#include "engine/collectives.h"

#include <algorithm>
#include <array>
#include <utility>

#include "ATen/Functions.h"
#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "c10/core/GradMode.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/coordination/c10d/c10d_store.h"
#include "checkpoint/coordination/c10d/process_group.h"

namespace waypoint::engine {
namespace {

constexpr int kAxes = 4;

// Gloo's only call without a sequence number of its own is send; one tag serves, as messages of a pair keep their
// order.  NCCL has none.
constexpr int kTag = 0;

struct Group {
  std::vector<int> ranks;
  int index = 0;
  // Null for one rank.
  c10::intrusive_ptr<GroupBackend> backend;
};

// The bytes of a contiguous tensor, for calls that move and do not compute: Gloo knows no bfloat16.
at::Tensor BytesOf(const at::Tensor& tensor) { return tensor.view({-1}).view(at::kByte); }

}  // namespace

struct ProcessGroups::Impl {
  int rank = 0;
  MeshShape shape;
  MeshCoordinates here;
  at::Device device = at::kCPU;
  std::array<Group, kAxes> groups;

  Group& group(MeshAxis axis) { return groups[static_cast<size_t>(axis)]; }
};

ProcessGroups::ProcessGroups(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ProcessGroups::~ProcessGroups() = default;

std::unique_ptr<ProcessGroups> ProcessGroups::Alone(at::Device device) {
  auto impl = absl::make_unique<Impl>();
  impl->device = device;
  for (Group& group : impl->groups) {
    group.ranks = {0};
  }
  return absl::WrapUnique(new ProcessGroups(std::move(impl)));
}

absl::StatusOr<std::unique_ptr<ProcessGroups>> ProcessGroups::Create(const C10dOptions& rendezvous,
                                                                     const MeshShape& shape,
                                                                     const ProcessGroupOptions& options) {
  if (rendezvous.world_size != shape.world_size()) {
    return MakeError(ErrorKind::kRequest,
                     absl::StrCat("a mesh of ", shape.world_size(), " ranks for a job of ", rendezvous.world_size));
  }
  if (shape.world_size() == 1) {
    return Alone(options.device);
  }
  auto impl = absl::make_unique<Impl>();
  impl->rank = rendezvous.rank;
  impl->shape = shape;
  impl->here = CoordinatesOf(shape, rendezvous.rank);
  impl->device = options.device;
  C10dOptions meeting = rendezvous;
  // c10d connects within whole seconds, and not at all within none.
  meeting.connect_timeout = std::min(rendezvous.connect_timeout, std::max(options.timeout, absl::Seconds(1)));
  WAYPOINT_ASSIGN_OR_RETURN(const auto store, ConnectC10dStore(meeting));
  for (const MeshAxis axis : {MeshAxis::kTensor, MeshAxis::kData, MeshAxis::kPipeline, MeshAxis::kWorld}) {
    Group& group = impl->group(axis);
    group.ranks = RanksAlong(shape, impl->here, axis);
    while (group.ranks[group.index] != impl->rank) {
      ++group.index;
    }
    if (group.ranks.size() == 1) {
      continue;
    }
    const std::string name =
        absl::StrCat("waypoint/", rendezvous.name, "/groups/", MeshAxisName(axis), "/", group.ranks[0]);
    auto backend = ConnectWatched(
        [store, name, index = group.index, size = static_cast<int>(group.ranks.size()), host = rendezvous.host,
         timeout = options.timeout, on_cpu = options.device.is_cpu()] {
          return on_cpu ? NewGlooGroup(store, host, name, index, size, timeout)
                        : NewNcclGroup(store, name, index, size, timeout);
        },
        options.watch);
    if (!backend.ok()) {
      return Annotate(backend.status(), absl::StrCat("rank ", impl->rank, " cannot connect to its ", MeshAxisName(axis),
                                                     " group (ranks ", absl::StrJoin(group.ranks, ", "), ")"));
    }
    group.backend = *std::move(backend);
  }
  return absl::WrapUnique(new ProcessGroups(std::move(impl)));
}

int ProcessGroups::rank() const { return impl_->rank; }
const MeshShape& ProcessGroups::shape() const { return impl_->shape; }
const MeshCoordinates& ProcessGroups::here() const { return impl_->here; }
at::Device ProcessGroups::device() const { return impl_->device; }
int ProcessGroups::size(MeshAxis axis) const { return static_cast<int>(impl_->group(axis).ranks.size()); }
int ProcessGroups::index(MeshAxis axis) const { return impl_->group(axis).index; }

void ProcessGroups::Close() {
  for (Group& group : impl_->groups) {
    group.backend.reset();
  }
  if (failure_.ok() && impl_->shape.world_size() > 1) {
    failure_ = MakeError(ErrorKind::kRank, absl::StrCat("rank ", impl_->rank, " has left its process groups"));
  }
}

template <typename Call>
absl::Status ProcessGroups::Do(MeshAxis axis, absl::string_view what, const at::Tensor& tensor, Call&& call) {
  if (!failure_.ok()) {
    return failure_;
  }
  const Group& group = impl_->group(axis);
  if (group.backend == nullptr) {
    return absl::OkStatus();
  }
  try {
    const c10::NoGradGuard no_grad;
    call(*group.backend);
  } catch (const std::exception& e) {
    failure_ = MakeError(ErrorKind::kRank, absl::StrCat("rank ", impl_->rank, ": ", what, " of ", tensor.numel(),
                                                        " elements in its ", MeshAxisName(axis), " group (ranks ",
                                                        absl::StrJoin(group.ranks, ", "), "): ", FirstLine(e.what())));
  }
  return failure_;
}

namespace {

void AllReduce(GroupBackend& backend, at::Device device, const at::Tensor& tensor, c10d::ReduceOp operation) {
  const bool narrow = tensor.scalar_type() == at::kBFloat16 || tensor.scalar_type() == at::kHalf;
  std::vector<at::Tensor> tensors = {tensor.to(device, narrow ? at::kFloat : tensor.scalar_type()).contiguous()};
  c10d::AllreduceOptions options;
  options.reduceOp = operation;
  backend.allreduce(tensors, options)->wait();
  if (!tensors[0].is_same(tensor)) {
    tensor.copy_(tensors[0]);
  }
}

}  // namespace

absl::Status ProcessGroups::AllReduceSum(MeshAxis axis, const at::Tensor& tensor) {
  return Do(axis, "sum", tensor,
            [&](GroupBackend& backend) { AllReduce(backend, impl_->device, tensor, c10d::ReduceOp::SUM); });
}

absl::Status ProcessGroups::AllReduceMax(MeshAxis axis, const at::Tensor& tensor) {
  return Do(axis, "maximum", tensor,
            [&](GroupBackend& backend) { AllReduce(backend, impl_->device, tensor, c10d::ReduceOp::MAX); });
}

absl::StatusOr<at::Tensor> ProcessGroups::ReduceScatterSum(MeshAxis axis, const at::Tensor& values) {
  WAYPOINT_RETURN_IF_ERROR(AllReduceSum(axis, values));
  const int64_t part = values.numel() / size(axis);
  return values.narrow(0, part * index(axis), part);
}

absl::StatusOr<std::vector<at::Tensor>> ProcessGroups::AllGather(MeshAxis axis, const at::Tensor& mine) {
  std::vector<at::Tensor> all = {mine};
  WAYPOINT_RETURN_IF_ERROR(Do(axis, "gather", mine, [&](GroupBackend& backend) {
    all.clear();
    std::vector<std::vector<at::Tensor>> outputs(1);
    for (int i = 0; i < size(axis); ++i) {
      all.push_back(at::empty(mine.sizes(), mine.options().device(impl_->device)));
      outputs[0].push_back(BytesOf(all.back()));
    }
    if (mine.numel() > 0) {
      std::vector<at::Tensor> inputs = {BytesOf(mine.to(impl_->device).contiguous())};
      backend.allgather(outputs, inputs)->wait();
    }
    for (at::Tensor& one : all) {
      one = one.to(mine.device());
    }
  }));
  return all;
}

absl::Status ProcessGroups::Send(MeshAxis axis, const at::Tensor& tensor, int to) {
  return Do(axis, absl::StrCat("send to member ", to), tensor, [&](GroupBackend& backend) {
    std::vector<at::Tensor> tensors = {BytesOf(tensor.to(impl_->device))};
    backend.send(tensors, to, kTag)->wait();
  });
}

absl::Status ProcessGroups::Recv(MeshAxis axis, const at::Tensor& tensor, int from) {
  return Do(axis, absl::StrCat("receive from member ", from), tensor, [&](GroupBackend& backend) {
    const at::Tensor received =
        tensor.device() == impl_->device ? tensor : at::empty(tensor.sizes(), tensor.options().device(impl_->device));
    std::vector<at::Tensor> tensors = {BytesOf(received)};
    backend.recv(tensors, from, kTag)->wait();
    if (!received.is_same(tensor)) {
      tensor.copy_(received);
    }
  });
}

}  // namespace waypoint::engine
