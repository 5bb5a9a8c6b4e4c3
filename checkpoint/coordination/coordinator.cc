#include "checkpoint/coordination/coordinator.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/list_error.h"
#include "checkpoint/base/status_macros.h"

namespace waypoint {
namespace {

// What a rank returns that failed by itself and could not say so.
absl::Status Untold(const absl::Status& mine, absl::string_view name, const absl::Status& gather) {
  return Annotate(mine, absl::StrCat("the other ranks could not be told at \"", name, "\" (", gather.message(), ")"));
}

}  // namespace

absl::Status CheckRank(int rank, int world_size) {
  if (world_size < 1 || rank < 0 || rank >= world_size) {
    return MakeError(ErrorKind::kRequest, absl::StrCat("rank ", rank, " of ", world_size, " is no rank of a job"));
  }
  return absl::OkStatus();
}

absl::Status CheckRoot(absl::string_view name, int root, int world_size) {
  if (root < 0 || root >= world_size) {
    return MakeError(ErrorKind::kRequest, absl::StrCat("broadcast \"", name, "\" from rank ", root, ", but there are ",
                                                       world_size, " ranks, counted from 0"));
  }
  return absl::OkStatus();
}

absl::Status CheckMessage(absl::string_view name, absl::string_view bytes) {
  if (static_cast<int64_t>(bytes.size()) > Coordinator::kMaxMessageBytes) {
    return MakeError(ErrorKind::kRequest, absl::StrCat("message \"", name, "\" has ", bytes.size(), " bytes, at most ",
                                                       Coordinator::kMaxMessageBytes, " may be exchanged"));
  }
  return absl::OkStatus();
}

absl::Status RefusedMessage(int rank, absl::string_view why) {
  return MakeQuotingError(ErrorKind::kRank, absl::StrCat("rank ", rank, " could not send its message: ", why));
}

absl::Status Coordinator::Agree(absl::string_view name, const absl::Status& mine, absl::Duration timeout) {
  // "" is OK; an error is "!" and its text, so that an error without a message still counts.
  const std::string vote = mine.ok() ? "" : absl::StrCat("!", ErrorText(mine));
  const absl::StatusOr<std::vector<std::string>> gathered = AllGather(name, vote, timeout);
  if (!mine.ok()) {
    return gathered.ok() ? mine : Untold(mine, name, gathered.status());
  }
  WAYPOINT_RETURN_IF_ERROR(gathered.status());
  const std::vector<std::string>& votes = *gathered;
  for (size_t rank = 0; rank < votes.size(); ++rank) {
    if (!votes[rank].empty()) {
      return RankError(absl::StrCat("rank ", rank, " failed at \"", name, "\""), votes[rank].substr(1));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> Coordinator::AllGatherIfOk(absl::string_view name,
                                                                    const absl::StatusOr<std::string>& mine,
                                                                    absl::Duration timeout) {
  const std::string vote = mine.ok() ? absl::StrCat("+", *mine) : absl::StrCat("!", ErrorText(mine.status()));
  absl::StatusOr<std::vector<std::string>> gathered = AllGather(name, vote, timeout);
  if (!mine.ok()) {
    return gathered.ok() ? mine.status() : Untold(mine.status(), name, gathered.status());
  }
  WAYPOINT_ASSIGN_OR_RETURN(std::vector<std::string> votes, std::move(gathered));
  for (size_t rank = 0; rank < votes.size(); ++rank) {
    if (votes[rank].empty() || votes[rank][0] != '+') {
      return RankError(absl::StrCat("rank ", rank, " failed at \"", name, "\""),
                       absl::string_view(votes[rank]).substr(std::min<size_t>(1, votes[rank].size())));
    }
    votes[rank].erase(0, 1);
  }
  return votes;
}

absl::Status LocalCoordinator::Barrier(absl::string_view name, absl::Duration timeout) { return absl::OkStatus(); }

absl::StatusOr<std::string> LocalCoordinator::Broadcast(absl::string_view name, const std::string& bytes, int root,
                                                        absl::Duration timeout) {
  WAYPOINT_RETURN_IF_ERROR(CheckRoot(name, root, 1));
  WAYPOINT_RETURN_IF_ERROR(CheckMessage(name, bytes));
  return bytes;
}

absl::StatusOr<std::vector<std::string>> LocalCoordinator::AllGather(absl::string_view name, const std::string& bytes,
                                                                     absl::Duration timeout) {
  WAYPOINT_RETURN_IF_ERROR(CheckMessage(name, bytes));
  return std::vector<std::string>{bytes};
}

}  // namespace waypoint
