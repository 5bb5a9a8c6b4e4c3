#include "checkpoint/coordination/coordinator.h"

#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"

namespace waypoint {
namespace {

absl::Status CheckMessage(absl::string_view name, const std::string& bytes) {
  if (static_cast<int64_t>(bytes.size()) > Coordinator::kMaxMessageBytes) {
    return MakeError(ErrorKind::kRequest, absl::StrCat("message \"", name, "\" has ", bytes.size(), " bytes, at most ",
                                                       Coordinator::kMaxMessageBytes, " may be exchanged"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Coordinator::Agree(absl::string_view name, const absl::Status& mine, absl::Duration timeout) {
  // "" is OK; an error is "!" and its text, so that an error without a message still counts.
  const std::string vote =
      mine.ok() ? "" : absl::StrCat("!", mine.ToString(absl::StatusToStringMode::kWithNoExtraData));
  WAYPOINT_ASSIGN_OR_RETURN(const std::vector<std::string> votes, AllGather(name, vote, timeout));
  if (!mine.ok()) {
    return mine;
  }
  for (size_t rank = 0; rank < votes.size(); ++rank) {
    if (!votes[rank].empty()) {
      return MakeError(ErrorKind::kRank,
                       absl::StrCat("rank ", rank, " failed at \"", name, "\": ", votes[rank].substr(1)));
    }
  }
  return absl::OkStatus();
}

absl::Status LocalCoordinator::Barrier(absl::string_view name, absl::Duration timeout) { return absl::OkStatus(); }

absl::StatusOr<std::string> LocalCoordinator::Broadcast(absl::string_view name, const std::string& bytes, int root,
                                                        absl::Duration timeout) {
  if (root != 0) {
    return MakeError(ErrorKind::kRequest,
                     absl::StrCat("broadcast \"", name, "\" from rank ", root, ", but there is only rank 0"));
  }
  WAYPOINT_RETURN_IF_ERROR(CheckMessage(name, bytes));
  return bytes;
}

absl::StatusOr<std::vector<std::string>> LocalCoordinator::AllGather(absl::string_view name, const std::string& bytes,
                                                                     absl::Duration timeout) {
  WAYPOINT_RETURN_IF_ERROR(CheckMessage(name, bytes));
  return std::vector<std::string>{bytes};
}

}  // namespace waypoint
