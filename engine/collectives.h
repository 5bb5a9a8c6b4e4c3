#ifndef ENGINE_COLLECTIVES_H_
#define ENGINE_COLLECTIVES_H_

// Tensors between the ranks of a mesh, through libtorch's process groups: over NCCL for GPUs, else over Gloo.
//
//   WAYPOINT_ASSIGN_OR_RETURN(auto groups, ProcessGroups::Create(rendezvous, shape, {}));
//   WAYPOINT_RETURN_IF_ERROR(groups->AllReduceSum(MeshAxis::kData, gradient));
//
// Calls return when they are done.  All ranks of a group make the same calls with equal shapes in the same order; a
// group of one rank returns at once.
//
// Errors: E_RANK, naming this rank, the group and its ranks, when another one is gone, stays away until the timeout or
// does something else.  After an error everything is over: later calls return the same error.  One thread.

#include <functional>
#include <memory>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "checkpoint/coordination/c10d/c10d_options.h"
#include "engine/mesh.h"

namespace waypoint::engine {

struct ProcessGroupOptions {
  // Where most tensors of the calls live; all others pass through it.
  at::Device device = at::kCPU;
  // Of each call, Create included: the time by which ranks may differ in reaching it, and it itself.  On GPUs a store
  // that does not answer, or `watch`, may add to it.
  absl::Duration timeout = absl::Minutes(10);
  // An error when some rank cannot come any more: asked while the ranks connect and, on GPUs, in every call, from any
  // thread.  Unset: nobody is missed before `timeout`.
  std::function<absl::Status()> watch = {};
};

class ProcessGroups {
 public:
  // All ranks of the job call it.  `rendezvous` tells where they meet; shape.world_size() is its world size.
  // The network interface is GLOO_SOCKET_IFNAME's where that is set, the loopback for a host that is it, else the one
  // that this host's name resolves to.
  static absl::StatusOr<std::unique_ptr<ProcessGroups>> Create(const C10dOptions& rendezvous, const MeshShape& shape,
                                                               const ProcessGroupOptions& options);
  // A job of one process.
  static std::unique_ptr<ProcessGroups> Alone(at::Device device = at::kCPU);
  // All ranks of a job must be through with their calls: over NCCL it breaks off what the others still wait for.
  ~ProcessGroups();

  int rank() const;
  const MeshShape& shape() const;
  const MeshCoordinates& here() const;
  at::Device device() const;
  // Of this rank's group along an axis.
  int size(MeshAxis axis) const;
  int index(MeshAxis axis) const;

  // In place; any floating dtype (16 bits are summed in float32) and int64.
  absl::Status AllReduceSum(MeshAxis axis, const at::Tensor& tensor);
  absl::Status AllReduceMax(MeshAxis axis, const at::Tensor& tensor);
  // `values`: one dimension, a multiple of size(axis) elements.  Returns this rank's part of the sum, by index.
  // libtorch 1.13's Gloo has no reduce-scatter, so this moves the bytes of an all-reduce; `values` is overwritten.
  absl::StatusOr<at::Tensor> ReduceScatterSum(MeshAxis axis, const at::Tensor& values);
  // `mine`: one dimension, any dtype.  By index.
  absl::StatusOr<std::vector<at::Tensor>> AllGather(MeshAxis axis, const at::Tensor& mine);
  // Contiguous tensors of any dtype; `to`, `from`: index in the group.
  absl::Status Send(MeshAxis axis, const at::Tensor& tensor, int to);
  absl::Status Recv(MeshAxis axis, const at::Tensor& tensor, int from);

  // The first error.
  const absl::Status& failure() const { return failure_; }
  // Ends the connections, so that whoever waits for this rank, in any group, learns at once that it is gone.
  void Close();

 private:
  struct Impl;
  explicit ProcessGroups(std::shared_ptr<Impl> impl);

  template <typename Call>
  absl::Status Do(MeshAxis axis, absl::string_view what, const at::Tensor& tensor, Call&& call);

  const std::shared_ptr<Impl> impl_;
  absl::Status failure_;
};

}  // namespace waypoint::engine

#endif  // ENGINE_COLLECTIVES_H_
