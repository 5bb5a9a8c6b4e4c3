#include "checkpoint/coordination/c10d/gloo_group.h"

#include <cstdlib>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <utility>

namespace waypoint {
namespace {

bool IsLoopback(const std::string& host) { return host == "localhost" || host == "::1" || host.rfind("127.", 0) == 0; }

std::shared_ptr<gloo::transport::Device> DeviceFor(const std::string& host) {
  if (const char* interface = std::getenv("GLOO_SOCKET_IFNAME"); interface != nullptr) {
    return c10d::ProcessGroupGloo::createDeviceForInterface(interface);
  }
  return IsLoopback(host) ? c10d::ProcessGroupGloo::createDeviceForHostname("127.0.0.1")
                          : c10d::ProcessGroupGloo::createDefaultDevice();
}

}  // namespace

c10::intrusive_ptr<c10d::ProcessGroupGloo> NewGlooGroup(const c10::intrusive_ptr<c10d::TCPStore>& store,
                                                        const std::string& host, const std::string& name, int index,
                                                        int size, absl::Duration timeout) {
  auto options = c10d::ProcessGroupGloo::Options::create(absl::ToChronoMilliseconds(timeout));
  options->devices.push_back(DeviceFor(host));
  options->threads = 1;  // calls block, so that no two run at once
  const auto prefixed = c10::make_intrusive<c10d::PrefixStore>(name, store);
  return c10::make_intrusive<c10d::ProcessGroupGloo>(prefixed, index, size, std::move(options));
}

}  // namespace waypoint
