#include "tools/convert_ranks.h"

#include <algorithm>
#include <cstdlib>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "checkpoint/base/digest.h"
#include "checkpoint/base/status_macros.h"
#include "checkpoint/coordination/file_coordinator.h"
#include "checkpoint/coordination/launch_environment.h"
#include "tools/convert_target.h"

namespace waypoint {
namespace {

constexpr absl::Duration kMaxJoinTimeout = absl::Minutes(5);

// Processes that were told different things must not meet.
std::string JobId(const ConvertRequest& request) {
  const std::string identity =
      absl::StrCat(JobIdentityFromEnvironment(), request.source, "\n", request.target, "\n", request.from, "\n",
                   request.to, "\n", static_cast<int>(request.dtype), "\n", request.max_shard_bytes, "\n",
                   static_cast<int>(request.verify), "\n", request.keep_optimizer, request.overwrite,
                   request.carry_unknown, request.drop_unknown, "\n", request.max_memory_bytes, "\n", request.threads,
                   "\n", absl::StrJoin(request.format_options, "\n", absl::PairFormatter("=")));
  return DigestHex(Xxh3(absl::MakeConstSpan(identity.data(), identity.size())));
}

// Whether ranks can meet beside a target that they will refuse, so that one of them says why, and leave no trace.
bool MayMeetBeside(FileSystem& fs, const ConvertRequest& request) {
  const auto parent = fs.RealPath(DirName(request.target));
  const auto source = fs.RealPath(request.source);
  return !request.target.empty() && parent.ok() &&
         !(source.ok() && absl::StartsWith(absl::StrCat(*parent, "/"), absl::StrCat(*source, "/")));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Coordinator>> JoinRanks(FileSystem& fs, const ConvertRequest& request,
                                                       const WaitHooks& hooks) {
  if (!request.shares_work) {
    return std::unique_ptr<Coordinator>();
  }
  WAYPOINT_ASSIGN_OR_RETURN(FileCoordinatorOptions options, FileCoordinatorOptionsFromEnvironment());
  if (options.world_size == 1 || request.dry_run) {
    return std::unique_ptr<Coordinator>();
  }
  // Before anything is made beside it.  Whether it may be replaced is for the ranks to find out together: another job
  // may publish it just now.
  const absl::Status usable = CheckTargetPath(fs, request.source, request.target, /*overwrite=*/true);
  if (!usable.ok() && !MayMeetBeside(fs, request)) {
    return usable;
  }
  WAYPOINT_RETURN_IF_ERROR(MakeDirectories(fs, DirName(request.target)));
  const std::string prefix = absl::StrCat(".", BaseName(request.target), ".ranks-");
  options.directory = JoinPath(DirName(request.target), absl::StrCat(prefix, JobId(request)));
  options.hooks = hooks;
  options.join_timeout = std::min(request.rank_timeout, kMaxJoinTimeout);
  WAYPOINT_ASSIGN_OR_RETURN(std::unique_ptr<FileCoordinator> ranks, FileCoordinator::Create(fs, options));
  if (options.rank == 0) {
    RemoveAbandonedJobs(fs, options.directory, prefix);
  }
  return std::unique_ptr<Coordinator>(std::move(ranks));
}

bool IsIdleInDryRun(const ConvertRequest& request) {
  if (!request.dry_run || !request.shares_work) {
    return false;
  }
  const auto options = FileCoordinatorOptionsFromEnvironment();
  return options.ok() && options->rank != 0;
}

std::string UnheededRanks(const ConvertRequest& request) {
  const auto set_to = [](const char* name) {
    const char* const value = std::getenv(name);
    return absl::StrCat(name, value == nullptr ? " is not set" : absl::StrCat("=", value));
  };
  const char* const size = std::getenv("WORLD_SIZE");
  if (request.shares_work || !HasLaunchEnvironment() || (size != nullptr && absl::string_view(size) == "1")) {
    return "";
  }
  return absl::StrCat("the environment says ", set_to("RANK"), ", ", set_to("WORLD_SIZE"),
                      ", but not --ranks env: this process converts all by itself, and shares no work with others");
}

}  // namespace waypoint
