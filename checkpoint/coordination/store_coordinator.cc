#include "checkpoint/coordination/store_coordinator.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "checkpoint/base/catch_allocation.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/coordination/deadline.h"

namespace waypoint {
namespace {

constexpr absl::Duration kShortestPause = absl::Microseconds(200);
constexpr absl::Duration kLongestPause = absl::Milliseconds(20);
// A question about each rank, so not at every turn.
constexpr absl::Duration kLookForGone = absl::Milliseconds(100);
// What is done by then, as the rename that publishes is, a signal does not tear apart.
constexpr absl::Duration kCancellable = absl::Milliseconds(200);
// For the others to read why, when a signal ended the job.
constexpr absl::Duration kShortestLinger = absl::Milliseconds(500);
constexpr char kFailedKey[] = "failed";
// Kinds of messages: bytes, or why there are none.
constexpr char kBytes = '+';
constexpr char kRefused = '!';

std::string CallKey(int64_t call, int rank) { return absl::StrCat(call, "/", rank); }
std::string OutcomeKey(int64_t call) { return absl::StrCat(call, "/outcome"); }
std::string LeftKey(int rank) { return absl::StrCat("left/", rank); }

}  // namespace

absl::StatusOr<std::vector<int>> StoreCoordinator::Missing(int64_t call) {
  std::vector<int> missing;
  for (int rank = 0; rank < world_size_; ++rank) {
    WAYPOINT_ASSIGN_OR_RETURN(const bool here, store_->HasAll({CallKey(call, rank)}));
    if (!here) {
      missing.push_back(rank);
    }
  }
  return missing;
}

absl::StatusOr<std::string> StoreCoordinator::Decide(int64_t call, const std::string& error) {
  WAYPOINT_ASSIGN_OR_RETURN(const std::string outcome,
                            store_->SetOnce(OutcomeKey(call), error.empty() ? "+" : absl::StrCat("!", error)));
  return outcome.substr(1);
}

absl::StatusOr<std::string> StoreCoordinator::FindGone(int64_t call, const std::string& what) {
  WAYPOINT_ASSIGN_OR_RETURN(const std::vector<int> missing, Missing(call));
  for (const int rank : missing) {
    WAYPOINT_ASSIGN_OR_RETURN(const bool left, store_->HasAll({LeftKey(rank)}));
    if (!left && !store_->IsDead(rank)) {
      continue;
    }
    // It may have come and gone since.
    WAYPOINT_ASSIGN_OR_RETURN(const bool here, store_->HasAll({CallKey(call, rank)}));
    if (!here) {
      return absl::StrCat("rank ", rank, left ? " left the job before " : " died before ", what);
    }
  }
  return std::string();
}

absl::StatusOr<std::string> StoreCoordinator::Await(int64_t call, const std::string& what, absl::Duration timeout) {
  const Deadline deadline(timeout);
  const Deadline cancellable(kCancellable);
  Wait wait(hooks_);
  std::vector<std::string> keys;
  for (int rank = 0; rank < world_size_; ++rank) {
    keys.push_back(CallKey(call, rank));
  }
  absl::Duration pause = kShortestPause;
  Deadline next_look(kLongestPause);
  while (true) {
    WAYPOINT_ASSIGN_OR_RETURN(const bool complete, store_->HasAll(keys));
    if (complete) {
      return Decide(call, "");
    }
    WAYPOINT_ASSIGN_OR_RETURN(const bool decided, store_->HasAll({OutcomeKey(call)}));
    if (decided) {
      return Decide(call, "unknown");
    }
    WAYPOINT_ASSIGN_OR_RETURN(const bool failed, store_->HasAll({kFailedKey}));
    if (failed) {
      WAYPOINT_ASSIGN_OR_RETURN(const std::string error, store_->Get(kFailedKey));
      return Decide(call, error);
    }
    if (cancellable.passed() && wait.IsCancelled()) {
      return Decide(call, absl::StrCat("rank ", rank_, " was interrupted at ", what));
    }
    if (next_look.passed()) {
      WAYPOINT_ASSIGN_OR_RETURN(const std::string gone, FindGone(call, what));
      if (!gone.empty()) {
        return Decide(call, gone);
      }
      next_look = Deadline(kLookForGone);
    }
    if (wait.IsNoticeDue()) {
      WAYPOINT_ASSIGN_OR_RETURN(const std::vector<int> missing, Missing(call));
      // Ranks that are here are in order too: all before this one are missing, or one of them tells.
      if (static_cast<int>(missing.size()) >= rank_ && !missing.empty() && (rank_ == 0 || missing[rank_ - 1] < rank_)) {
        wait.Tell(absl::StrCat(RankList(missing), " to come to ", what));
      }
    }
    if (deadline.passed()) {
      WAYPOINT_ASSIGN_OR_RETURN(const std::vector<int> missing, Missing(call));
      return Decide(call, missing.empty() ? ""
                                          : absl::StrCat("rank ", absl::StrJoin(missing, ", "), " did not come to ",
                                                         what, " within ", absl::FormatDuration(timeout)));
    }
    absl::SleepFor(std::min(pause, deadline.left()));
    pause = std::min(pause * 2, kLongestPause);
  }
}

// In the store: the name of the call, a NUL, the message.
absl::StatusOr<std::vector<std::string>> StoreCoordinator::Exchange(const std::string& what, const std::string& message,
                                                                    absl::Duration timeout) {
  const int64_t call = calls_++;
  // A store that keeps silent must not prolong the wait.
  WAYPOINT_RETURN_IF_ERROR(store_->LimitAnswers(timeout));
  WAYPOINT_RETURN_IF_ERROR(store_->Set(CallKey(call, rank_), absl::StrCat(what, absl::string_view("\0", 1), message)));
  WAYPOINT_ASSIGN_OR_RETURN(std::string error, Await(call, what, timeout));
  std::vector<std::string> messages;
  for (int rank = 0; error.empty() && rank < world_size_; ++rank) {
    WAYPOINT_ASSIGN_OR_RETURN(std::string got, store_->Get(CallKey(call, rank)));
    const size_t end = std::min(got.find('\0'), got.size());
    const std::string other = got.substr(0, end);
    if (other != what) {
      error = absl::StrCat("rank ", rank, " is at ", other, ", rank ", rank_, " at ", what,
                           ": the ranks do not run the same program");
    }
    messages.push_back(got.erase(0, end + 1));
  }
  if (!error.empty()) {
    WAYPOINT_RETURN_IF_ERROR(store_->SetOnce(kFailedKey, error).status());
    if (Wait(hooks_).IsCancelled()) {
      return absl::CancelledError(absl::StrCat("interrupted: ", error));
    }
    return MakeError(ErrorKind::kRank, error);
  }
  // Whoever is here has read all of the call before.
  if (call > 0) {
    WAYPOINT_RETURN_IF_ERROR(store_->Delete(CallKey(call - 1, rank_)));
    if (rank_ == 0 && call > 1) {
      WAYPOINT_RETURN_IF_ERROR(store_->Delete(OutcomeKey(call - 2)));
    }
  }
  return messages;
}

absl::StatusOr<std::vector<std::string>> StoreCoordinator::Meet(const std::string& what, const absl::Status& mine,
                                                                const std::string& bytes, absl::Duration timeout) {
  WAYPOINT_RETURN_IF_ERROR(failed_);
  const std::string message =
      mine.ok() ? absl::StrCat(std::string(1, kBytes), bytes) : absl::StrCat(std::string(1, kRefused), mine.message());
  absl::StatusOr<std::vector<std::string>> messages = Exchange(what, message, timeout);
  if (!messages.ok() && GetErrorKind(messages.status()) != ErrorKind::kRank && !absl::IsCancelled(messages.status())) {
    messages = MakeError(ErrorKind::kRank, absl::StrCat("the ranks cannot speak to each other at ", what, ": ",
                                                        messages.status().message()));
  }
  failed_ = messages.status();
  WAYPOINT_RETURN_IF_ERROR(mine);
  WAYPOINT_RETURN_IF_ERROR(failed_);
  for (int rank = 0; rank < world_size_; ++rank) {
    std::string& got = (*messages)[rank];
    if (got.empty() || got[0] != kBytes) {
      return RefusedMessage(rank, absl::string_view(got).substr(std::min<size_t>(got.size(), 1)));
    }
    got.erase(0, 1);
  }
  return messages;
}

void StoreCoordinator::Leave() {
  if (std::exchange(has_left_, true)) {
    return;
  }
  // Whatever fails here, there is nobody left to tell.
  UnlessOutOfMemory([this] {
    if (!store_->Set(LeftKey(rank_), "").ok() || !keeps_store_) {
      return;
    }
    const Deadline deadline(linger_);
    const Deadline shortest(kShortestLinger);
    const Wait wait(hooks_);
    const auto is_over = [&] { return deadline.passed() || (shortest.passed() && wait.IsCancelled()); };
    for (int rank = 0; rank < world_size_; ++rank) {
      while (!is_over() && !store_->HasAll({LeftKey(rank)}).value_or(true) && !store_->IsDead(rank)) {
        absl::SleepFor(kLongestPause);
      }
    }
  });
}

absl::Status StoreCoordinator::CheckAlive() {
  if (Wait(hooks_).IsCancelled()) {
    return absl::CancelledError("interrupted while waiting for other ranks");
  }
  WAYPOINT_ASSIGN_OR_RETURN(const int dead, store_->AnyDead());
  return dead < 0 ? absl::OkStatus() : MakeError(ErrorKind::kRank, absl::StrCat("rank ", dead, " died"));
}

bool StoreCoordinator::IsFirst(absl::string_view name) {
  const std::string mine = absl::StrCat(rank_);
  const auto first = store_->SetOnce(absl::StrCat("first/", name), mine);
  return !first.ok() || *first == mine;
}

absl::Status StoreCoordinator::Barrier(absl::string_view name, absl::Duration timeout) {
  return Meet(absl::StrCat("barrier \"", name, "\""), absl::OkStatus(), "", timeout).status();
}

absl::StatusOr<std::string> StoreCoordinator::Broadcast(absl::string_view name, const std::string& bytes, int root,
                                                        absl::Duration timeout) {
  WAYPOINT_RETURN_IF_ERROR(CheckRoot(name, root, world_size_));
  const std::string mine = rank_ == root ? bytes : "";
  WAYPOINT_ASSIGN_OR_RETURN(std::vector<std::string> messages,
                            Meet(absl::StrCat("broadcast \"", name, "\""), CheckMessage(name, mine), mine, timeout));
  return std::move(messages[root]);
}

absl::StatusOr<std::vector<std::string>> StoreCoordinator::AllGather(absl::string_view name, const std::string& bytes,
                                                                     absl::Duration timeout) {
  return Meet(absl::StrCat("gather \"", name, "\""), CheckMessage(name, bytes), bytes, timeout);
}

}  // namespace waypoint
