#include "checkpoint/coordination/c10d/c10d_coordinator.h"

#include <cstdlib>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/coordination/launch_environment.h"

namespace waypoint {
namespace {

std::vector<uint8_t> ToBytes(absl::string_view text) { return std::vector<uint8_t>(text.begin(), text.end()); }
std::string ToText(const std::vector<uint8_t>& bytes) { return std::string(bytes.begin(), bytes.end()); }

// First line of what c10d threw; the rest is a stack.
std::string FirstLine(const char* what) {
  const absl::string_view text(what);
  return std::string(text.substr(0, text.find('\n')));
}

bool IsTrue(const char* name) {
  const char* text = std::getenv(name);
  return text != nullptr && (absl::string_view(text) == "True" || absl::string_view(text) == "1");
}

class C10dStore : public MessageStore {
 public:
  C10dStore(c10::intrusive_ptr<c10d::TCPStore> store, const C10dOptions& options)
      : store_(std::move(store)),
        prefix_(absl::StrCat("waypoint/", options.name, "/")),
        server_(absl::StrCat(options.host, ":", options.port)) {}

  absl::Status Set(const std::string& key, const std::string& bytes) override {
    return Ask<int>([&] { return store_->set(prefix_ + key, ToBytes(bytes)), 0; }).status();
  }
  absl::StatusOr<std::string> Get(const std::string& key) override {
    return Ask<std::string>([&] { return ToText(store_->get(prefix_ + key)); });
  }
  absl::StatusOr<bool> HasAll(const std::vector<std::string>& keys) override {
    std::vector<std::string> full;
    for (const std::string& key : keys) {
      full.push_back(prefix_ + key);
    }
    return Ask<bool>([&] { return store_->check(full); });
  }
  absl::StatusOr<std::string> SetOnce(const std::string& key, const std::string& bytes) override {
    return Ask<std::string>([&] { return ToText(store_->compareSet(prefix_ + key, {}, ToBytes(bytes))); });
  }
  absl::Status Delete(const std::string& key) override {
    return Ask<bool>([&] { return store_->deleteKey(prefix_ + key); }).status();
  }

 private:
  template <typename Answer, typename Call>
  absl::StatusOr<Answer> Ask(const Call& call) {
    try {
      return call();
    } catch (const std::exception& e) {
      return MakeError(ErrorKind::kRank, absl::StrCat("rank 0, which serves the store at ", server_,
                                                      ", does not answer: ", FirstLine(e.what())));
    }
  }

  const c10::intrusive_ptr<c10d::TCPStore> store_;
  const std::string prefix_;
  const std::string server_;
};

}  // namespace

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

absl::StatusOr<std::unique_ptr<C10dCoordinator>> C10dCoordinator::Create(const C10dOptions& options) {
  WAYPOINT_RETURN_IF_ERROR(CheckRank(options.rank, options.world_size));
  if (options.port < 0 || options.port > 65535) {
    return MakeError(ErrorKind::kRequest, absl::StrCat("port is ", options.port, ", wanted at most 65535"));
  }
  C10dOptions found = options;
  c10d::TCPStoreOptions store_options;
  store_options.port = static_cast<uint16_t>(options.port);
  store_options.isServer = options.rank == 0 && options.rank_0_serves;
  store_options.waitWorkers = false;
  store_options.timeout = absl::ToChronoMilliseconds(options.connect_timeout);
  // A trainer in this process may serve its own store at the same port; both are then one server.
  store_options.multiTenant = options.port != 0;
  try {
    auto store = c10::make_intrusive<c10d::TCPStore>(options.host, store_options);
    found.port = store->getPort();
    // The first get sets the deadline of every later answer of the server.
    const std::string hello = absl::StrCat("waypoint/", options.name, "/hello");
    store->set(hello, ToBytes("+"));
    store->get(hello);
    return std::unique_ptr<C10dCoordinator>(new C10dCoordinator(found, std::move(store)));
  } catch (const std::exception& e) {
    return MakeError(ErrorKind::kRank, absl::StrCat("rank ", options.rank, " cannot reach the store at ", options.host,
                                                    ":", options.port, ": ", FirstLine(e.what())));
  }
}

C10dCoordinator::C10dCoordinator(const C10dOptions& options, c10::intrusive_ptr<c10d::TCPStore> store)
    : StoreCoordinator(std::make_unique<C10dStore>(store, options), options.rank, options.world_size, options.linger,
                       options.rank == 0 && options.rank_0_serves),
      options_(options),
      store_(std::move(store)) {}

// Here, where TCPStore is known.
C10dCoordinator::~C10dCoordinator() { Leave(); }

c10::intrusive_ptr<c10d::TCPStore> C10dCoordinator::store() const { return store_; }

}  // namespace waypoint
