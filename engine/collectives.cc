#include "engine/collectives.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <utility>

#include "ATen/Functions.h"
#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "c10/core/GradMode.h"
#include "checkpoint/base/catch_allocation.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/coordination/c10d/c10d_store.h"
#include "checkpoint/coordination/c10d/process_group.h"
#include "checkpoint/coordination/deadline.h"

namespace waypoint::engine {
namespace {

constexpr int kAxes = 4;

// Gloo's only call without a sequence number of its own is send; one tag serves, as messages of a pair keep their
// order.  NCCL has none.
constexpr int kTag = 0;

// Stages that send each other tensors: neighbours, and the first and the last one, which share tied embeddings.  Every
// other one first, so that they meet side by side.
std::vector<MemberPair> PairsOfStages(int stages) {
  std::vector<MemberPair> pairs;
  for (const int begin : {0, 1}) {
    for (int stage = begin; stage + 1 < stages; stage += 2) {
      pairs.push_back({stage, stage + 1});
    }
  }
  if (stages > 2) {
    pairs.push_back({0, stages - 1});
  }
  return pairs;
}

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
  ProcessGroupOptions options;
  std::array<Group, kAxes> groups;
  // NCCL does not tell who has ended its groups, so ranks say it here.
  c10::intrusive_ptr<c10d::TCPStore> store;
  std::string closed_key;
  // Create has failed: its thread that connects shall end.
  std::atomic<bool> given_up{false};

  Group& group(MeshAxis axis) { return groups[static_cast<size_t>(axis)]; }
  at::Device device() const { return options.device; }

  // An error when some rank is gone from the job, or from its groups.
  absl::Status Watch() const {
    WAYPOINT_RETURN_IF_ERROR(options.watch ? options.watch() : absl::OkStatus());
    try {
      if (!store->check({closed_key})) {
        return absl::OkStatus();
      }
      const std::vector<uint8_t> gone = store->get(closed_key);
      return MakeError(ErrorKind::kRank,
                       absl::StrCat("rank ", std::string(gone.begin(), gone.end()), " has left its process groups"));
    } catch (const std::exception& e) {
      return MakeError(ErrorKind::kRank, absl::StrCat("the store does not answer: ", FirstLine(e.what())));
    }
  }

  void Wait(c10d::Work& work) const {
    if (device().is_cpu()) {
      work.wait();
      return;
    }
    WaitWatched(work, options.timeout, [this] { return Watch(); });
  }

  void AllReduce(GroupBackend& backend, const at::Tensor& tensor, c10d::ReduceOp operation) const {
    const bool narrow = tensor.scalar_type() == at::kBFloat16 || tensor.scalar_type() == at::kHalf;
    std::vector<at::Tensor> tensors = {tensor.to(device(), narrow ? at::kFloat : tensor.scalar_type()).contiguous()};
    c10d::AllreduceOptions call;
    call.reduceOp = operation;
    Wait(*backend.allreduce(tensors, call));
    if (!tensors[0].is_same(tensor)) {
      tensor.copy_(tensors[0]);
    }
  }

  c10::intrusive_ptr<GroupBackend> Connect(const std::string& name, const std::string& host, MeshAxis axis) const {
    const Group& group = groups[static_cast<size_t>(axis)];
    const int size = static_cast<int>(group.ranks.size());
    if (device().is_cpu()) {
      return NewGlooGroup(store, host, name, group.index, size, options.timeout);
    }
    return NewNcclGroup(store, name, group.index, size, device(),
                        axis == MeshAxis::kPipeline ? PairsOfStages(size) : std::vector<MemberPair>(),
                        [this] { return given_up ? MakeError(ErrorKind::kRank, "given up") : absl::OkStatus(); });
  }

  // `tell`: others may still count on this rank.
  void End(bool tell) {
    if (tell && store != nullptr && !device().is_cpu()) {
      try {
        const std::string text = absl::StrCat(rank);
        store->set(closed_key, std::vector<uint8_t>(text.begin(), text.end()));
      } catch (const std::exception&) {
        // Without the store nobody can speak, and all learn that.
      }
    }
    for (Group& group : groups) {
      if (group.backend != nullptr) {
        EndGroup(std::move(group.backend));
      }
    }
  }
};

ProcessGroups::ProcessGroups(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
ProcessGroups::~ProcessGroups() { impl_->End(/*tell=*/false); }

std::unique_ptr<ProcessGroups> ProcessGroups::Alone(at::Device device) {
  const auto impl = std::make_shared<Impl>();
  impl->options.device = device;
  for (Group& group : impl->groups) {
    group.ranks = {0};
  }
  return absl::WrapUnique(new ProcessGroups(impl));
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
  // Shared with threads that connect, which may outlive a failure.
  const auto impl = std::make_shared<Impl>();
  impl->rank = rendezvous.rank;
  impl->shape = shape;
  impl->here = CoordinatesOf(shape, rendezvous.rank);
  impl->options = options;
  C10dOptions meeting = rendezvous;
  // c10d connects within whole seconds, and not at all within none.
  meeting.connect_timeout = std::min(rendezvous.connect_timeout, std::max(options.timeout, absl::Seconds(1)));
  WAYPOINT_ASSIGN_OR_RETURN(impl->store, ConnectC10dStore(meeting));
  const std::string prefix = absl::StrCat("waypoint/", rendezvous.name, "/groups/");
  impl->closed_key = absl::StrCat(prefix, "closed");
  try {
    // It is asked in the middle of calls too.
    LimitAnswers(*impl->store, meeting, meeting.connect_timeout);
  } catch (const std::exception& e) {
    return MakeError(ErrorKind::kRank, absl::StrCat("rank ", impl->rank, ": ", FirstLine(e.what())));
  }
  for (const MeshAxis axis : {MeshAxis::kTensor, MeshAxis::kData, MeshAxis::kPipeline, MeshAxis::kWorld}) {
    Group& group = impl->group(axis);
    group.ranks = RanksAlong(shape, impl->here, axis);
    while (group.ranks[group.index] != impl->rank) {
      ++group.index;
    }
    if (group.ranks.size() == 1) {
      continue;
    }
    const Deadline deadline(options.timeout);
    auto backend = ConnectWatched([impl, axis, name = absl::StrCat(prefix, MeshAxisName(axis), "/", group.ranks[0]),
                                   host = rendezvous.host] { return impl->Connect(name, host, axis); },
                                  [&]() -> absl::Status {
                                    // Gloo has a timeout of its own, and says more.
                                    if (!options.device.is_cpu() && deadline.passed()) {
                                      return MakeError(
                                          ErrorKind::kRank,
                                          absl::StrCat("not connected within ", absl::FormatDuration(options.timeout)));
                                    }
                                    return options.watch ? options.watch() : absl::OkStatus();
                                  });
    if (!backend.ok()) {
      impl->given_up = true;
      return Annotate(backend.status(), absl::StrCat("rank ", impl->rank, " cannot connect to its ", MeshAxisName(axis),
                                                     " group (ranks ", absl::StrJoin(group.ranks, ", "), ")"));
    }
    group.backend = *std::move(backend);
  }
  return absl::WrapUnique(new ProcessGroups(impl));
}

int ProcessGroups::rank() const { return impl_->rank; }
const MeshShape& ProcessGroups::shape() const { return impl_->shape; }
const MeshCoordinates& ProcessGroups::here() const { return impl_->here; }
at::Device ProcessGroups::device() const { return impl_->device(); }
int ProcessGroups::size(MeshAxis axis) const { return static_cast<int>(impl_->group(axis).ranks.size()); }
int ProcessGroups::index(MeshAxis axis) const { return impl_->group(axis).index; }

void ProcessGroups::Close() {
  impl_->End(/*tell=*/true);
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
    failure_ = ThrownError(e, ErrorKind::kRank,
                           absl::StrCat("rank ", impl_->rank, ": ", what, " of ", tensor.numel(), " elements in its ",
                                        MeshAxisName(axis), " group (ranks ", absl::StrJoin(group.ranks, ", "), ")"),
                           "lower data.batch_size or data.sequence_length, or use more ranks");
  }
  return failure_;
}

absl::Status ProcessGroups::AllReduceSum(MeshAxis axis, const at::Tensor& tensor) {
  return Do(axis, "sum", tensor,
            [&](GroupBackend& backend) { impl_->AllReduce(backend, tensor, c10d::ReduceOp::SUM); });
}

absl::Status ProcessGroups::AllReduceMax(MeshAxis axis, const at::Tensor& tensor) {
  return Do(axis, "maximum", tensor,
            [&](GroupBackend& backend) { impl_->AllReduce(backend, tensor, c10d::ReduceOp::MAX); });
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
      all.push_back(at::empty(mine.sizes(), mine.options().device(impl_->device())));
      outputs[0].push_back(BytesOf(all.back()));
    }
    if (mine.numel() > 0) {
      std::vector<at::Tensor> inputs = {BytesOf(mine.to(impl_->device()).contiguous())};
      impl_->Wait(*backend.allgather(outputs, inputs));
    }
    for (at::Tensor& one : all) {
      one = one.to(mine.device());
    }
  }));
  return all;
}

absl::Status ProcessGroups::Send(MeshAxis axis, const at::Tensor& tensor, int to) {
  return Do(axis, absl::StrCat("send to member ", to), tensor, [&](GroupBackend& backend) {
    std::vector<at::Tensor> tensors = {BytesOf(tensor.to(impl_->device()))};
    impl_->Wait(*backend.send(tensors, to, kTag));
  });
}

absl::Status ProcessGroups::Recv(MeshAxis axis, const at::Tensor& tensor, int from) {
  return Do(axis, absl::StrCat("receive from member ", from), tensor, [&](GroupBackend& backend) {
    const at::Tensor received = tensor.device() == impl_->device()
                                    ? tensor
                                    : at::empty(tensor.sizes(), tensor.options().device(impl_->device()));
    std::vector<at::Tensor> tensors = {BytesOf(received)};
    impl_->Wait(*backend.recv(tensors, from, kTag));
    if (!received.is_same(tensor)) {
      tensor.copy_(received);
    }
  });
}

}  // namespace waypoint::engine
