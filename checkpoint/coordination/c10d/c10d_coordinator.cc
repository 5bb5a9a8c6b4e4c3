#include "checkpoint/coordination/c10d/c10d_coordinator.h"

#include <algorithm>
#include <mutex>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/catch_allocation.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/coordination/c10d/c10d_store.h"

namespace waypoint {
namespace {

constexpr char kRemedy[] = "lower what this rank holds, or raise its limit (ulimit -v)";

std::vector<uint8_t> ToBytes(absl::string_view text) { return std::vector<uint8_t>(text.begin(), text.end()); }
std::string ToText(const std::vector<uint8_t>& bytes) { return std::string(bytes.begin(), bytes.end()); }

// What libtorch's milliseconds and the kernel's time values can hold by far.
constexpr absl::Duration kLongestAnswer = absl::Hours(24 * 7);

std::string KeyPrefix(const C10dOptions& options) { return absl::StrCat("waypoint/", options.name, "/"); }
std::string DeadKey(int rank) { return absl::StrCat("dead/", rank); }
constexpr char kAnyDeadKey[] = "dead";  // one of them

class C10dMessages : public MessageStore {
 public:
  C10dMessages(c10::intrusive_ptr<c10d::TCPStore> store, const C10dOptions& options)
      : store_(std::move(store)), options_(options), prefix_(KeyPrefix(options)) {}

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
  bool IsDead(int rank) override { return HasAll({DeadKey(rank)}).value_or(false); }
  absl::StatusOr<int> AnyDead() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    WAYPOINT_ASSIGN_OR_RETURN(const bool any, HasAll({kAnyDeadKey}));
    int rank = -1;
    if (any) {
      WAYPOINT_ASSIGN_OR_RETURN(const std::string text, Get(kAnyDeadKey));
      if (!absl::SimpleAtoi(text, &rank)) {
        return MakeError(ErrorKind::kRank, absl::StrCat("the store says that rank \"", text, "\" is dead"));
      }
    }
    return rank;
  }
  absl::Status LimitAnswers(absl::Duration limit) override {
    // The server itself may wait as long for a rank that is stopped in the middle of a message.
    limit = std::min(std::max(limit, 2 * options_.stall_timeout), kLongestAnswer);
    if (limit == limit_) {
      return absl::OkStatus();
    }
    limit_ = limit;
    const std::lock_guard<std::mutex> lock(mutex_);
    return Ask<int>([&] { return waypoint::LimitAnswers(*store_, options_, limit), 0; }).status();
  }

 private:
  template <typename Answer, typename Call>
  absl::StatusOr<Answer> Ask(const Call& call) {
    try {
      return call();
    } catch (const std::exception& e) {
      if (IsOutOfMemory(e)) {
        return OutOfMemoryError(e, "a message to the other ranks", kRemedy);
      }
      return MakeError(
          ErrorKind::kRank,
          absl::StrCat("rank ", options_.rank, " has lost the store at ", options_.host, ":", options_.port,
                       ": rank 0, which serves it, has ended or is stopped, or the network between them "
                       "is cut, or rank ",
                       options_.rank, " stood still in the middle of a message for more than ",
                       absl::FormatDuration(options_.stall_timeout), ": ", FirstLine(e.what())));
    }
  }

  const c10::intrusive_ptr<c10d::TCPStore> store_;
  const C10dOptions options_;
  const std::string prefix_;
  absl::Duration limit_ = absl::ZeroDuration();
  // The store's limit, which its calls read.
  std::mutex mutex_;
};

// A store of another process only says where rank 0 serves ours, whose stalls are limited: as options with which every
// rank finds that one.  `agent` has been reached; `served` is to be kept by rank 0.
absl::StatusOr<C10dOptions> MeetAt(c10d::TCPStore& agent, const C10dOptions& options,
                                   c10::intrusive_ptr<c10d::TCPStore>* served) {
  C10dOptions ours = options;
  ours.rank_0_serves = true;
  ours.port = 0;
  const std::string key = absl::StrCat(KeyPrefix(options), "port");
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
    return ThrownError(e, ErrorKind::kRank,
                       absl::StrCat("rank ", options.rank, " cannot learn from the store at ", options.host, ":",
                                    options.port, " where rank 0 serves"));
  }
  return ours;
}

constexpr char kWatchKey[] = "watch";

// Rank 0 watches the others, and tells in the store, by itself, who is dead.
absl::StatusOr<std::unique_ptr<RankWatch>> Invite(MessageStore& messages, c10::intrusive_ptr<c10d::TCPStore> store,
                                                  const C10dOptions& options) {
  std::unique_ptr<RankWatch> watch;
  if (options.host_timeout > absl::ZeroDuration()) {
    const auto tell = [store = std::move(store), prefix = KeyPrefix(options)](int rank) {
      try {
        store->set(prefix + DeadKey(rank), {});
        store->set(prefix + kAnyDeadKey, ToBytes(absl::StrCat(rank)));
      } catch (const std::exception&) {
        // Without the store nobody can speak, and all learn that.
      }
    };
    WAYPOINT_ASSIGN_OR_RETURN(watch, RankWatch::Create(options.host, options.world_size, options.host_timeout, tell));
  }
  WAYPOINT_RETURN_IF_ERROR(messages.Set(kWatchKey, watch == nullptr ? "" : watch->invitation()));
  return watch;
}

absl::StatusOr<std::unique_ptr<WatchedRank>> Accept(c10d::TCPStore& store, const C10dOptions& options) {
  std::string invitation;
  try {
    invitation = ToText(store.get(KeyPrefix(options) + kWatchKey));
  } catch (const std::exception& e) {
    return ThrownError(e, ErrorKind::kRank,
                       absl::StrCat("rank ", options.rank, " does not learn from the store at ", options.host, ":",
                                    options.port, " where rank 0 watches who lives"));
  }
  if (invitation.empty()) {
    return std::unique_ptr<WatchedRank>();
  }
  return WatchedRank::Connect(options.host, invitation, options.rank, options.connect_timeout);
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
  auto messages = std::make_unique<C10dMessages>(store, found);
  C10dMessages& borrowed = *messages;
  std::unique_ptr<C10dCoordinator> coordinator(new C10dCoordinator(found, std::move(messages)));
  if (found.world_size > 1 && found.rank == 0) {
    WAYPOINT_ASSIGN_OR_RETURN(coordinator->watch_, Invite(borrowed, std::move(store), found));
  } else if (found.world_size > 1) {
    WAYPOINT_ASSIGN_OR_RETURN(coordinator->watched_, Accept(*store, found));
  }
  return coordinator;
}

C10dCoordinator::C10dCoordinator(const C10dOptions& options, std::unique_ptr<MessageStore> store)
    : StoreCoordinator(std::move(store), options.rank, options.world_size, options.linger, options.rank == 0,
                       options.hooks),
      options_(options) {}

// Takes leave in the store first: a connection that ends before that is a death.
C10dCoordinator::~C10dCoordinator() { Leave(); }

}  // namespace waypoint
