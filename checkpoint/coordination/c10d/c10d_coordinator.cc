#include "checkpoint/coordination/c10d/c10d_coordinator.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/coordination/c10d/c10d_store.h"

namespace waypoint {
namespace {

constexpr absl::Duration kShortestPause = absl::Microseconds(200);
constexpr absl::Duration kLongestPause = absl::Milliseconds(20);

std::vector<uint8_t> ToBytes(absl::string_view text) { return std::vector<uint8_t>(text.begin(), text.end()); }
std::string ToText(const std::vector<uint8_t>& bytes) { return std::string(bytes.begin(), bytes.end()); }

// By a clock that nobody sets.
class Deadline {
 public:
  explicit Deadline(absl::Duration timeout)
      : end_(std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(std::min(timeout, absl::Hours(24 * 365)))) {}
  absl::Duration left() const { return absl::FromChrono(end_ - std::chrono::steady_clock::now()); }

 private:
  const std::chrono::steady_clock::time_point end_;
};

}  // namespace

struct C10dCoordinator::Job {
  C10dOptions options;
  std::string prefix;
  c10::intrusive_ptr<c10d::TCPStore> store;
  int64_t calls = 0;
  // The first error; from then on every call returns it.
  absl::Status failed;

  std::string CallKey(int64_t call, int rank) const { return absl::StrCat(prefix, call, "/", rank); }
  std::string OutcomeKey(int64_t call) const { return absl::StrCat(prefix, call, "/outcome"); }
  std::string FailedKey() const { return absl::StrCat(prefix, "failed"); }
  std::string LeftKey(int rank) const { return absl::StrCat(prefix, "left/", rank); }

  bool Has(const std::string& key) { return store->check({key}); }

  std::vector<int> Missing(int64_t call) {
    std::vector<int> missing;
    for (int rank = 0; rank < options.world_size; ++rank) {
      if (!Has(CallKey(call, rank))) {
        missing.push_back(rank);
      }
    }
    return missing;
  }

  // All ranks that wait for a call decide the same: whoever is first, with success or with an error, decides.
  // Empty: it succeeded.
  std::string Decide(int64_t call, const std::string& error) {
    const std::string mine = error.empty() ? "+" : absl::StrCat("!", error);
    return ToText(store->compareSet(OutcomeKey(call), {}, ToBytes(mine))).substr(1);
  }

  // Waits until all are here, one has left or the job has failed; the error that all agree on.
  std::string Await(int64_t call, const std::string& what, absl::Duration timeout) {
    const Deadline deadline(timeout);
    std::vector<std::string> keys;
    for (int rank = 0; rank < options.world_size; ++rank) {
      keys.push_back(CallKey(call, rank));
    }
    absl::Duration pause = kShortestPause;
    while (true) {
      if (store->check(keys)) {
        return Decide(call, "");
      }
      if (Has(OutcomeKey(call))) {
        return Decide(call, "unknown");
      }
      if (Has(FailedKey())) {
        return Decide(call, ToText(store->get(FailedKey())));
      }
      for (int rank = 0; rank < options.world_size; ++rank) {
        if (Has(LeftKey(rank)) && !Has(CallKey(call, rank))) {
          return Decide(call, absl::StrCat("rank ", rank, " left the job before ", what));
        }
      }
      if (deadline.left() <= absl::ZeroDuration()) {
        const std::vector<int> missing = Missing(call);
        return Decide(call, missing.empty() ? ""
                                            : absl::StrCat("rank ", absl::StrJoin(missing, ", "), " did not come to ",
                                                           what, " within ", absl::FormatDuration(timeout)));
      }
      absl::SleepFor(std::min(pause, std::max(deadline.left(), absl::ZeroDuration())));
      pause = std::min(pause * 2, kLongestPause);
    }
  }

  // The messages of all ranks: the name of the call, a NUL, the bytes.
  absl::StatusOr<std::vector<std::string>> Exchange(const std::string& what, const std::string& bytes,
                                                    absl::Duration timeout) {
    const int64_t call = calls++;
    store->set(CallKey(call, options.rank), ToBytes(absl::StrCat(what, absl::string_view("\0", 1), bytes)));
    std::string error = Await(call, what, timeout);
    std::vector<std::string> messages;
    for (int rank = 0; error.empty() && rank < options.world_size; ++rank) {
      std::string message = ToText(store->get(CallKey(call, rank)));
      const size_t end = std::min(message.find('\0'), message.size());
      const std::string other = message.substr(0, end);
      if (other != what) {
        error = absl::StrCat("rank ", rank, " is at ", other, ", rank ", options.rank, " at ", what,
                             ": the ranks do not run the same program");
      }
      messages.push_back(message.erase(0, end + 1));
    }
    if (!error.empty()) {
      store->compareSet(FailedKey(), {}, ToBytes(error));
      return MakeError(ErrorKind::kRank, error);
    }
    // Whoever is here has read all of the call before.
    if (call > 0) {
      store->deleteKey(CallKey(call - 1, options.rank));
      if (options.rank == 0 && call > 1) {
        store->deleteKey(OutcomeKey(call - 2));
      }
    }
    return messages;
  }

  absl::StatusOr<std::vector<std::string>> Meet(const std::string& what, const std::string& bytes,
                                                absl::Duration timeout) {
    WAYPOINT_RETURN_IF_ERROR(failed);
    absl::StatusOr<std::vector<std::string>> messages;
    try {
      messages = Exchange(what, bytes, timeout);
    } catch (const std::exception& e) {
      messages = MakeError(ErrorKind::kRank,
                           absl::StrCat("rank 0, which serves the store at ", options.host, ":", options.port,
                                        ", does not answer at ", what, ": ", FirstLine(e.what())));
    }
    failed = messages.status();
    return messages;
  }

  void Leave() {
    try {
      store->set(LeftKey(options.rank), {});
      const Deadline deadline(options.linger);
      std::vector<std::string> keys;
      for (int rank = 0; rank < options.world_size; ++rank) {
        keys.push_back(LeftKey(rank));
      }
      const bool serves = options.rank == 0 && options.rank_0_serves;
      while (serves && !store->check(keys) && deadline.left() > absl::ZeroDuration()) {
        absl::SleepFor(kLongestPause);
      }
    } catch (const std::exception&) {
      // The store is gone: there is nobody left to tell.
    }
  }
};

absl::StatusOr<std::unique_ptr<C10dCoordinator>> C10dCoordinator::Create(const C10dOptions& options) {
  auto job = std::make_unique<Job>();
  job->options = options;
  job->prefix = absl::StrCat("waypoint/", options.name, "/");
  WAYPOINT_ASSIGN_OR_RETURN(job->store, ConnectC10dStore(options));
  job->options.port = job->store->getPort();
  return std::unique_ptr<C10dCoordinator>(new C10dCoordinator(std::move(job)));
}

C10dCoordinator::C10dCoordinator(std::unique_ptr<Job> job) : job_(std::move(job)) {}
C10dCoordinator::~C10dCoordinator() { job_->Leave(); }

int C10dCoordinator::rank() const { return job_->options.rank; }
int C10dCoordinator::world_size() const { return job_->options.world_size; }
int C10dCoordinator::port() const { return job_->options.port; }

absl::Status C10dCoordinator::Barrier(absl::string_view name, absl::Duration timeout) {
  return job_->Meet(absl::StrCat("barrier \"", name, "\""), "", timeout).status();
}

absl::StatusOr<std::string> C10dCoordinator::Broadcast(absl::string_view name, const std::string& bytes, int root,
                                                       absl::Duration timeout) {
  const bool mine = rank() == root;
  WAYPOINT_RETURN_IF_ERROR(CheckMessage(name, mine ? bytes : "", root, world_size()));
  WAYPOINT_ASSIGN_OR_RETURN(std::vector<std::string> messages,
                            job_->Meet(absl::StrCat("broadcast \"", name, "\""), mine ? bytes : "", timeout));
  return std::move(messages[root]);
}

absl::StatusOr<std::vector<std::string>> C10dCoordinator::AllGather(absl::string_view name, const std::string& bytes,
                                                                    absl::Duration timeout) {
  WAYPOINT_RETURN_IF_ERROR(CheckMessage(name, bytes, 0, world_size()));
  return job_->Meet(absl::StrCat("gather \"", name, "\""), bytes, timeout);
}

}  // namespace waypoint
