#include "checkpoint/coordination/c10d/process_group.h"

#include <chrono>
#include <cstdlib>
#include <exception>
#include <future>
#include <memory>
#include <stdexcept>
#include <thread>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <utility>

#include "checkpoint/base/error.h"
#include "checkpoint/base/start_thread.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/coordination/c10d/c10d_store.h"
#ifdef USE_C10D_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif

namespace waypoint {
namespace {

constexpr std::chrono::milliseconds kWatchInterval{200};

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
  while (group.wait_for(kWatchInterval) == std::future_status::timeout) {
    if (absl::Status gone = watch ? watch() : absl::OkStatus(); !gone.ok()) {
      thread.detach();
      return gone;
    }
  }
  thread.join();
  try {
    return group.get();
  } catch (const std::exception& e) {
    return MakeError(ErrorKind::kRank, FirstLine(e.what()));
  }
}

#ifdef USE_C10D_NCCL

bool HasNccl() { return true; }

c10::intrusive_ptr<GroupBackend> NewNcclGroup(const c10::intrusive_ptr<c10d::TCPStore>& store, const std::string& name,
                                              int index, int size, absl::Duration timeout) {
  // Without it a wait only tells the GPU to wait, and a member that is gone is found out by a watchdog that ends the
  // process.
  for (const char* variable : {"NCCL_BLOCKING_WAIT", "TORCH_NCCL_BLOCKING_WAIT"}) {
    setenv(variable, "1", /*overwrite=*/0);
  }
  auto options = c10d::ProcessGroupNCCL::Options::create();
  options->timeout = absl::ToChronoMilliseconds(timeout);
  const auto prefixed = c10::make_intrusive<c10d::PrefixStore>(name, store);
  return c10::make_intrusive<c10d::ProcessGroupNCCL>(prefixed, index, size, std::move(options));
}

#else

bool HasNccl() { return false; }

c10::intrusive_ptr<GroupBackend> NewNcclGroup(const c10::intrusive_ptr<c10d::TCPStore>& /*store*/,
                                              const std::string& /*name*/, int /*index*/, int /*size*/,
                                              absl::Duration /*timeout*/) {
  throw std::runtime_error("this program was built without NCCL");
}

#endif

}  // namespace waypoint
