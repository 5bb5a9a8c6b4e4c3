// One rank of a job that tries collectives where its tensors live, for tests/gpu/run: threads of one process, as other
// tests have them, cannot share a GPU over NCCL.
//
//   RANK=... WORLD_SIZE=... MASTER_ADDR=... MASTER_PORT=... collective_ranks cpu|cuda CASE
//
// Four ranks: 2 stages of 2 tensor ranks.  Exit code 0 when the case went as it says.

#include <unistd.h>

#include <csignal>
#include <iostream>
#include <memory>
#include <string>

#include "ATen/Functions.h"
#include "ATen/ops/equal.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/coordination/c10d/c10d_coordinator.h"
#include "checkpoint/coordination/c10d/c10d_options.h"
#include "engine/collectives.h"
#include "engine/device.h"
#include "engine/mesh.h"

namespace waypoint::engine {
namespace {

constexpr MeshShape kShape{/*pipeline=*/2, /*data=*/1, /*tensor=*/2};
constexpr absl::Duration kPatience = absl::Seconds(60);
constexpr absl::Duration kShortPatience = absl::Seconds(6);
// A loss that is noticed, not waited out.
constexpr absl::Duration kAtOnce = absl::Seconds(5);

absl::Status Expect(bool fine, absl::string_view what) { return fine ? absl::OkStatus() : absl::InternalError(what); }

absl::Status ASum(ProcessGroups& groups) {
  return groups.AllReduceSum(MeshAxis::kWorld, at::zeros({1}, at::TensorOptions().device(groups.device())));
}

// A sum of all ranks fails, over NCCL in less than `within` and saying `part`.  Gloo, whose rehearsal must not depend
// on the load of a machine, says what its connections saw.
absl::Status ExpectNoSum(ProcessGroups& groups, absl::string_view part, absl::Duration within) {
  const absl::Time begin = absl::Now();
  const absl::Status status = ASum(groups);
  const absl::Duration took = absl::Now() - begin;
  WAYPOINT_RETURN_IF_ERROR(Expect(GetErrorKind(status) == ErrorKind::kRank, status.ToString()));
  if (groups.device().is_cpu()) {
    return absl::OkStatus();
  }
  WAYPOINT_RETURN_IF_ERROR(Expect(absl::StrContains(status.message(), part),
                                  absl::StrCat("wanted \"", part, "\", got ", status.ToString())));
  return Expect(took < within, absl::StrCat("took ", absl::FormatDuration(took)));
}

absl::Status Values(ProcessGroups& groups) {
  const at::TensorOptions here = at::TensorOptions().device(groups.device());
  for (const at::ScalarType type : {at::kFloat, at::kDouble, at::kBFloat16, at::kHalf, at::kLong}) {
    const at::Tensor sum = at::full({3}, groups.rank() + 1, here.dtype(type));
    WAYPOINT_RETURN_IF_ERROR(groups.AllReduceSum(MeshAxis::kWorld, sum));
    WAYPOINT_RETURN_IF_ERROR(Expect(at::equal(sum, at::full({3}, 10, here.dtype(type))), "sum"));
  }
  // Not where the groups live.
  const at::Tensor most = at::full({1}, groups.rank(), at::kLong);
  WAYPOINT_RETURN_IF_ERROR(groups.AllReduceMax(MeshAxis::kPipeline, most));
  WAYPOINT_RETURN_IF_ERROR(Expect(most.item<int>() == groups.rank() % 2 + 2, "maximum"));

  const at::Tensor mine = at::full({3}, groups.rank(), here.dtype(at::kBFloat16));
  WAYPOINT_ASSIGN_OR_RETURN(const auto all, groups.AllGather(MeshAxis::kWorld, mine));
  for (int rank = 0; rank < 4; ++rank) {
    WAYPOINT_RETURN_IF_ERROR(Expect(at::equal(all[rank], at::full_like(mine, rank)), "gathered"));
  }
  WAYPOINT_ASSIGN_OR_RETURN(const at::Tensor part,
                            groups.ReduceScatterSum(MeshAxis::kWorld, at::arange(8, here.dtype(at::kFloat))));
  WAYPOINT_RETURN_IF_ERROR(Expect(
      at::equal(part, at::arange(8 * groups.rank(), 8 * groups.rank() + 8, 4, here.dtype(at::kFloat))), "scattered"));

  for (int i = 0; i < 3; ++i) {
    const at::Tensor expected = at::full({2, 3}, 10 * i + groups.here().tensor, here.dtype(at::kBFloat16));
    const at::Tensor received = at::zeros_like(expected);
    const bool first = groups.here().pipeline == 0;
    WAYPOINT_RETURN_IF_ERROR(first ? groups.Send(MeshAxis::kPipeline, expected, 1)
                                   : groups.Recv(MeshAxis::kPipeline, received, 0));
    // And back, which libtorch must not mix up.
    WAYPOINT_RETURN_IF_ERROR(first ? groups.Recv(MeshAxis::kPipeline, received, 1)
                                   : groups.Send(MeshAxis::kPipeline, received, 0));
    WAYPOINT_RETURN_IF_ERROR(Expect(at::equal(received, expected), "received"));
  }
  return absl::OkStatus();
}

// Rank 1 ends its groups: the others learn it in the call in which they wait.
absl::Status Leaves(ProcessGroups& groups) {
  if (groups.rank() == 1) {
    absl::SleepFor(absl::Seconds(1));
    groups.Close();
    return absl::OkStatus();
  }
  return ExpectNoSum(groups, "rank 1 has left its process groups", kAtOnce);
}

// Rank 1 dies.
absl::Status Dies(ProcessGroups& groups) {
  if (groups.rank() == 1) {
    absl::SleepFor(absl::Seconds(1));
    kill(getpid(), SIGKILL);
  }
  return ExpectNoSum(groups, "rank 1 died", kAtOnce);
}

// Rank 1 comes too late.
absl::Status StaysAway(ProcessGroups& groups) {
  if (groups.rank() == 1) {
    absl::SleepFor(2 * kShortPatience);
    return absl::OkStatus();
  }
  return ExpectNoSum(groups, "not done within 6s", kShortPatience + absl::Seconds(1));
}

absl::Status Run(const std::string& device, const std::string& name) {
  WAYPOINT_ASSIGN_OR_RETURN(const C10dOptions rendezvous, C10dOptionsFromEnvironment());
  WAYPOINT_ASSIGN_OR_RETURN(const auto coordinator, C10dCoordinator::Create(rendezvous));
  ProcessGroupOptions options;
  options.timeout = name == "stays_away" ? kShortPatience : kPatience;
  options.watch = [&coordinator] { return coordinator->CheckAlive(); };
  WAYPOINT_ASSIGN_OR_RETURN(options.device, DeviceOf(device, rendezvous.world_size));
  WAYPOINT_RETURN_IF_ERROR(coordinator->Barrier("start", kPatience));
  WAYPOINT_ASSIGN_OR_RETURN(const auto groups, ProcessGroups::Create(rendezvous, kShape, options));
  if (name == "values") {
    WAYPOINT_RETURN_IF_ERROR(Values(*groups));
    return coordinator->Barrier("end", kPatience);
  }
  WAYPOINT_RETURN_IF_ERROR(ASum(*groups));
  if (name == "leaves") {
    return Leaves(*groups);
  }
  if (name == "dies") {
    return Dies(*groups);
  }
  if (name == "stays_away") {
    return StaysAway(*groups);
  }
  return MakeError(ErrorKind::kRequest, absl::StrCat("no case \"", name, "\""));
}

}  // namespace
}  // namespace waypoint::engine

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: collective_ranks cpu|cuda values|leaves|dies|stays_away" << std::endl;
    return 2;
  }
  const absl::Status status = waypoint::engine::Run(argv[1], argv[2]);
  if (!status.ok()) {
    std::cerr << status.ToString() << std::endl;
  }
  return status.ok() ? 0 : 1;
}
