#include "checkpoint/coordination/c10d/c10d_store.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdlib>
#include <filesystem>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/catch_allocation.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/coordination/c10d/listen_where_said.h"
#include "checkpoint/coordination/coordinator.h"
#include "checkpoint/coordination/launch_environment.h"

namespace waypoint {
namespace {

bool IsTrue(const char* name) {
  const char* text = std::getenv(name);
  return text != nullptr && (absl::string_view(text) == "True" || absl::string_view(text) == "1");
}

// getsockname: this end of a socket; getpeername: the other one.
using AddressOf = int(int file, sockaddr* address, socklen_t* length);

// -1 for what is no socket.
int PortOf(AddressOf* address_of, int file) {
  sockaddr_storage address = {};
  socklen_t length = sizeof(address);
  if (address_of(file, reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    return -1;
  }
  switch (address.ss_family) {
    case AF_INET:
      return ntohs(reinterpret_cast<const sockaddr_in&>(address).sin_port);
    case AF_INET6:
      return ntohs(reinterpret_cast<const sockaddr_in6&>(address).sin6_port);
    default:
      return -1;
  }
}

// Bounds each read and write of the sockets of this process that have `port` at that end.  c10d does not say which are
// its own.
void LimitWaits(AddressOf* address_of, int port, absl::Duration limit) {
  const timeval wait = absl::ToTimeval(limit);
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd", ignored)) {
    int file = -1;
    if (absl::SimpleAtoi(entry.path().filename().string(), &file) && PortOf(address_of, file) == port) {
      setsockopt(file, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
      setsockopt(file, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait));
    }
  }
}

// From 2.4 on libtorch has another server, and takes it unless it is told not to, or fails where it was built without:
// ours is the one that all have, whose stalls LimitWaits bounds.
template <typename Options>
auto TakeServerOfAllVersions(Options& options, int) -> decltype(options.useLibUV = false, void()) {
  options.useLibUV = false;
}
template <typename Options>
void TakeServerOfAllVersions(Options& /*options*/, long) {}  // NOLINT: the second choice of the two

}  // namespace

std::string HelloKey(const C10dOptions& options) { return absl::StrCat("waypoint/", options.name, "/hello"); }

std::string FirstLine(absl::string_view what) { return std::string(what.substr(0, what.find('\n'))); }

absl::StatusOr<C10dOptions> C10dOptionsFromEnvironment() {
  C10dOptions options;
  if (!HasLaunchEnvironment()) {
    return options;
  }
  WAYPOINT_ASSIGN_OR_RETURN(options.rank, IntegerFromEnvironment("RANK"));
  WAYPOINT_ASSIGN_OR_RETURN(options.world_size, IntegerFromEnvironment("WORLD_SIZE"));
  if (options.world_size > 1) {
    WAYPOINT_ASSIGN_OR_RETURN(options.port, IntegerFromEnvironment("MASTER_PORT"));
    const char* host = std::getenv("MASTER_ADDR");
    if (host == nullptr) {
      return MakeError(ErrorKind::kRequest, "environment variable MASTER_ADDR is not set; launchers of ranks set it");
    }
    options.host = host;
  }
  options.rank_0_serves = !IsTrue("TORCHELASTIC_USE_AGENT_STORE");
  if (const char* attempt = std::getenv("TORCHELASTIC_RESTART_COUNT"); attempt != nullptr) {
    absl::StrAppend(&options.name, "-", attempt);  // the agent's store keeps the keys of earlier attempts
  }
  return options;
}

absl::StatusOr<c10::intrusive_ptr<c10d::TCPStore>> ConnectC10dStore(const C10dOptions& options) {
  WAYPOINT_RETURN_IF_ERROR(CheckRank(options.rank, options.world_size));
  if (options.port < 0 || options.port > 65535) {
    return MakeError(ErrorKind::kRequest, absl::StrCat("port is ", options.port, ", wanted at most 65535"));
  }
  c10d::TCPStoreOptions store_options;
  store_options.port = static_cast<uint16_t>(options.port);
  store_options.isServer = options.rank == 0 && options.rank_0_serves;
  store_options.waitWorkers = false;
  store_options.timeout = absl::ToChronoMilliseconds(options.connect_timeout);
  // Others in this process may serve at the same port; all are then one server.
  store_options.multiTenant = options.port != 0;
  TakeServerOfAllVersions(store_options, 0);
  try {
    const ListenWhereSaid where(options.host);
    auto store = c10::make_intrusive<c10d::TCPStore>(options.host, store_options);
    // The first get sets the deadline of every later answer of the server.
    const std::string hello = HelloKey(options);
    store->set(hello, std::vector<uint8_t>{'+'});
    store->get(hello);
    if (store_options.isServer) {
      // Connections inherit the limits of the socket that listens; those that were there before are found too.
      LimitWaits(getsockname, store->getPort(), options.stall_timeout);
    }
    return store;
  } catch (const std::exception& e) {
    return ThrownError(
        e, ErrorKind::kRank,
        absl::StrCat("rank ", options.rank, " cannot reach the store at ", options.host, ":", options.port));
  }
}

void LimitAnswers(c10d::TCPStore& store, const C10dOptions& options, absl::Duration limit) {
  // From some 2.x on nothing else bounds what the client waits for an answer that is not a wait's.
  LimitWaits(getpeername, store.getPort(), limit);
  // Before, a wait sets the deadline of every later answer of the server, to the store's own unless it is given one; so
  // does every get.
  store.setTimeout(absl::ToChronoMilliseconds(limit));
  store.wait({HelloKey(options)}, absl::ToChronoMilliseconds(limit));
}

}  // namespace waypoint
