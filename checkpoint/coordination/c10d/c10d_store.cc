#include "checkpoint/coordination/c10d/c10d_store.h"

#include <cstdlib>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"

namespace waypoint {
namespace {

absl::StatusOr<int> IntegerFromEnvironment(const char* name) {
  const char* text = std::getenv(name);
  int value = 0;
  if (text == nullptr || !absl::SimpleAtoi(text, &value)) {
    return MakeError(ErrorKind::kRequest,
                     text == nullptr
                         ? absl::StrCat("environment variable ", name, " is not set; launchers of ranks set it")
                         : absl::StrCat("environment variable ", name, " is \"", text, "\", wanted a number"));
  }
  return value;
}

bool IsTrue(const char* name) {
  const char* text = std::getenv(name);
  return text != nullptr && (absl::string_view(text) == "True" || absl::string_view(text) == "1");
}

}  // namespace

std::string FirstLine(absl::string_view what) { return std::string(what.substr(0, what.find('\n'))); }

absl::StatusOr<C10dOptions> C10dOptionsFromEnvironment() {
  C10dOptions options;
  if (std::getenv("RANK") == nullptr && std::getenv("WORLD_SIZE") == nullptr) {
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
  if (options.world_size < 1 || options.rank < 0 || options.rank >= options.world_size) {
    return MakeError(ErrorKind::kRequest,
                     absl::StrCat("rank ", options.rank, " of ", options.world_size, " is no rank of a job"));
  }
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
  try {
    auto store = c10::make_intrusive<c10d::TCPStore>(options.host, store_options);
    // The first get sets the deadline of every later answer of the server.
    const std::string hello = absl::StrCat("waypoint/", options.name, "/hello");
    store->set(hello, std::vector<uint8_t>{'+'});
    store->get(hello);
    return store;
  } catch (const std::exception& e) {
    return MakeError(ErrorKind::kRank, absl::StrCat("rank ", options.rank, " cannot reach the store at ", options.host,
                                                    ":", options.port, ": ", FirstLine(e.what())));
  }
}

}  // namespace waypoint
