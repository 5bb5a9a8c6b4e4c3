#include "checkpoint/coordination/c10d/process_group.h"

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <future>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "checkpoint/base/catch_allocation.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/start_thread.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/coordination/c10d/c10d_store.h"
#include "checkpoint/coordination/deadline.h"
#ifdef USE_C10D_NCCL
#if TORCH_VERSION_MAJOR < 2
#error "libtorch 1 cannot give up work of NCCL whose other members are gone; use libtorch 2 for GPUs"
#endif
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include "ATen/ops/zeros.h"
#endif

namespace waypoint {
namespace {

constexpr absl::Duration kWatchInterval = absl::Milliseconds(200);
// Between two looks at work on a GPU.  The shortest takes some 20 microseconds.
constexpr absl::Duration kLongestPause = absl::Microseconds(50);

// What libtorch reads when its first group is made.  Before there are threads of ours that read the environment.
void SetLibtorchVariables() {
  static std::once_flag once;
  std::call_once(once, [] {
    // Each call of a group is noted in one place for the whole process; in 2.11 two threads with groups of their own,
    // as a training step and a save beside it have, corrupt it.
    if (std::getenv("TORCH_FR_BUFFER_SIZE") == nullptr && std::getenv("TORCH_NCCL_TRACE_BUFFER_SIZE") == nullptr) {
      setenv("TORCH_FR_BUFFER_SIZE", "0", /*overwrite=*/1);
    }
#ifdef USE_C10D_NCCL
    // Watchdogs end the whole process, or hold it up for a minute or more, when a call fails or takes long; WaitWatched
    // gives up the one call instead, at once.
    constexpr bool kOldName = TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR < 2;
    setenv(kOldName ? "NCCL_ASYNC_ERROR_HANDLING" : "TORCH_NCCL_ASYNC_ERROR_HANDLING", "0", /*overwrite=*/1);
    setenv("TORCH_NCCL_ENABLE_MONITORING", "0", /*overwrite=*/0);
    setenv("TORCH_NCCL_DUMP_ON_TIMEOUT", "0", /*overwrite=*/0);
    setenv("TORCH_NCCL_WAIT_TIMEOUT_DUMP_MILSEC", "100", /*overwrite=*/0);
#endif
  });
}

bool IsLoopback(const std::string& host) { return host == "localhost" || host == "::1" || host.rfind("127.", 0) == 0; }

std::shared_ptr<gloo::transport::Device> DeviceFor(const std::string& host) {
  if (const char* interface = std::getenv("GLOO_SOCKET_IFNAME"); interface != nullptr) {
    return c10d::ProcessGroupGloo::createDeviceForInterface(interface);
  }
  return IsLoopback(host) ? c10d::ProcessGroupGloo::createDeviceForHostname("127.0.0.1")
                          : c10d::ProcessGroupGloo::createDefaultDevice();
}

}  // namespace

c10::intrusive_ptr<GroupBackend> NewGlooGroup(const c10::intrusive_ptr<c10d::TCPStore>& store, const std::string& host,
                                              const std::string& name, int index, int size, absl::Duration timeout) {
  auto options = c10d::ProcessGroupGloo::Options::create(absl::ToChronoMilliseconds(timeout));
  options->devices.push_back(DeviceFor(host));
  options->threads = 1;  // calls block, so that no two run at once
  const auto prefixed = c10::make_intrusive<c10d::PrefixStore>(name, store);
  return c10::make_intrusive<c10d::ProcessGroupGloo>(prefixed, index, size, std::move(options));
}

absl::StatusOr<c10::intrusive_ptr<GroupBackend>> ConnectWatched(
    std::function<c10::intrusive_ptr<GroupBackend>()> connect, const std::function<absl::Status()>& watch) {
  SetLibtorchVariables();
  // Shared with the thread, which may outlive this call.
  const auto made = std::make_shared<std::promise<c10::intrusive_ptr<GroupBackend>>>();
  std::future<c10::intrusive_ptr<GroupBackend>> group = made->get_future();
  WAYPOINT_ASSIGN_OR_RETURN(std::thread thread, StartThread([made, connect = std::move(connect)] {
                              try {
                                made->set_value(connect());
                              } catch (...) {
                                made->set_exception(std::current_exception());
                              }
                            }));
  while (group.wait_for(absl::ToChronoMilliseconds(kWatchInterval)) == std::future_status::timeout) {
    if (absl::Status gone = watch ? watch() : absl::OkStatus(); !gone.ok()) {
      thread.detach();
      return gone;
    }
  }
  thread.join();
  try {
    return group.get();
  } catch (const std::exception& e) {
    return IsOutOfMemory(e) ? OutOfMemoryError(e, "connections to other ranks",
                                               "lower what this rank holds, or raise its limit (ulimit -v)")
                            : MakeError(ErrorKind::kRank, FirstLine(e.what()));
  }
}

void WaitWatched(c10d::Work& work, absl::Duration timeout, const std::function<absl::Status()>& watch) {
  // A kernel that waits for a lost member keeps the GPU from all that waits for the GPU, the end of other groups too.
  const auto give_up = [&work](absl::string_view why) {
    try {
      work.abort();
    } catch (const std::exception&) {
      // Why it was given up says more than why that did not go well.
    }
    throw std::runtime_error(std::string(why));
  };
  const auto look = [&] {
    if (const absl::Status gone = watch ? watch() : absl::OkStatus(); !gone.ok()) {
      give_up(gone.message());
    }
  };
  const Deadline deadline(timeout);
  Deadline next_look(kWatchInterval);
  absl::Duration pause = absl::Microseconds(1);
  while (!work.isCompleted()) {
    if (next_look.passed()) {
      look();
      next_look = Deadline(kWatchInterval);
    }
    if (deadline.passed()) {
      give_up(absl::StrCat("not done within ", absl::FormatDuration(timeout)));
    }
    absl::SleepFor(pause);
    pause = std::min(2 * pause, kLongestPause);
  }
  if (const std::exception_ptr problem = work.exception(); problem != nullptr) {
    // NCCL knows that a connection ended, not whose; that is told elsewhere, a moment later.
    absl::SleepFor(kWatchInterval);
    look();
    try {
      std::rethrow_exception(problem);
    } catch (const std::exception& e) {
      give_up(FirstLine(e.what()));
    }
  }
  work.wait();  // what is enqueued from here on comes behind it
}

#ifdef USE_C10D_NCCL

bool HasNccl() { return true; }

c10::intrusive_ptr<GroupBackend> NewNcclGroup(const c10::intrusive_ptr<c10d::TCPStore>& store, const std::string& name,
                                              int index, int size, c10::Device device,
                                              const std::vector<MemberPair>& pairs,
                                              const std::function<absl::Status()>& watch) {
  const auto prefixed = c10::make_intrusive<c10d::PrefixStore>(name, store);
  auto group =
      c10::make_intrusive<c10d::ProcessGroupNCCL>(prefixed, index, size, c10d::ProcessGroupNCCL::Options::create());
  std::vector<at::Tensor> one = {at::zeros({1}, device)};
  WaitWatched(*group->allreduce(one), absl::InfiniteDuration(), watch);
  for (const MemberPair& pair : pairs) {
    if (index == pair.first) {
      WaitWatched(*group->send(one, pair.second, /*tag=*/0), absl::InfiniteDuration(), watch);
    } else if (index == pair.second) {
      WaitWatched(*group->recv(one, pair.first, /*tag=*/0), absl::InfiniteDuration(), watch);
    }
  }
  return group;
}

void EndGroup(c10::intrusive_ptr<GroupBackend> group) {
  if (auto* const nccl = dynamic_cast<c10d::ProcessGroupNCCL*>(group.get()); nccl != nullptr) {
    try {
      nccl->abort();
    } catch (const std::exception&) {
      // NCCL failed at it; the group is over all the same.
    }
  }
  group.reset();
}

#else

bool HasNccl() { return false; }

c10::intrusive_ptr<GroupBackend> NewNcclGroup(const c10::intrusive_ptr<c10d::TCPStore>& /*store*/,
                                              const std::string& /*name*/, int /*index*/, int /*size*/,
                                              c10::Device /*device*/, const std::vector<MemberPair>& /*pairs*/,
                                              const std::function<absl::Status()>& /*watch*/) {
  throw std::runtime_error("this program was built without NCCL");
}

void EndGroup(c10::intrusive_ptr<GroupBackend> group) { group.reset(); }

#endif

}  // namespace waypoint
