#include "checkpoint/coordination/c10d/c10d_coordinator.h"

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/coordination/c10d/c10d_store.h"

namespace waypoint {
namespace {

std::vector<uint8_t> ToBytes(absl::string_view text) { return std::vector<uint8_t>(text.begin(), text.end()); }
std::string ToText(const std::vector<uint8_t>& bytes) { return std::string(bytes.begin(), bytes.end()); }

class C10dMessages : public MessageStore {
 public:
  C10dMessages(c10::intrusive_ptr<c10d::TCPStore> store, const C10dOptions& options)
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
                                                      ", does not answer, or has cut this "
                                                      "rank off since it was stopped: ",
                                                      FirstLine(e.what())));
    }
  }

  const c10::intrusive_ptr<c10d::TCPStore> store_;
  const std::string prefix_;
  const std::string server_;
};

// A store of another process only says where rank 0 serves ours, whose stalls are limited: as options with which every
// rank finds that one.  `agent` has been reached; `served` is to be kept by rank 0.
absl::StatusOr<C10dOptions> MeetAt(c10d::TCPStore& agent, const C10dOptions& options,
                                   c10::intrusive_ptr<c10d::TCPStore>* served) {
  C10dOptions ours = options;
  ours.rank_0_serves = true;
  ours.port = 0;
  const std::string key = absl::StrCat("waypoint/", options.name, "/port");
  if (options.rank == 0) {
    WAYPOINT_ASSIGN_OR_RETURN(*served, ConnectC10dStore(ours));
    ours.port = (*served)->getPort();
  }
  try {
    if (options.rank == 0) {
      agent.set(key, ToBytes(absl::StrCat(ours.port)));
    } else if (!absl::SimpleAtoi(ToText(agent.get(key)), &ours.port)) {
      return MakeError(ErrorKind::kRank, absl::StrCat("the store at ", options.host, ":", options.port,
                                                      " has no port under \"", key, "\""));
    }
  } catch (const std::exception& e) {
    return MakeError(ErrorKind::kRank,
                     absl::StrCat("rank ", options.rank, " cannot learn from the store at ", options.host, ":",
                                  options.port, " where rank 0 serves: ", FirstLine(e.what())));
  }
  return ours;
}

}  // namespace

absl::StatusOr<std::unique_ptr<C10dCoordinator>> C10dCoordinator::Create(const C10dOptions& options) {
  C10dOptions found = options;
  WAYPOINT_ASSIGN_OR_RETURN(auto store, ConnectC10dStore(options));
  if (!options.rank_0_serves) {
    c10::intrusive_ptr<c10d::TCPStore> served;
    WAYPOINT_ASSIGN_OR_RETURN(found, MeetAt(*store, options, &served));
    if (served == nullptr) {
      WAYPOINT_ASSIGN_OR_RETURN(served, ConnectC10dStore(found));
    }
    store = std::move(served);
  }
  found.port = store->getPort();
  return std::unique_ptr<C10dCoordinator>(
      new C10dCoordinator(found, std::make_unique<C10dMessages>(std::move(store), found)));
}

C10dCoordinator::C10dCoordinator(const C10dOptions& options, std::unique_ptr<MessageStore> store)
    : StoreCoordinator(std::move(store), options.rank, options.world_size, options.linger, options.rank == 0),
      options_(options) {}

C10dCoordinator::~C10dCoordinator() = default;

}  // namespace waypoint
