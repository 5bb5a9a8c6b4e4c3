#include "checkpoint/storage/file_errors.h"

#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "checkpoint/base/error.h"

namespace waypoint {

absl::Status FileNotFoundError(absl::string_view path) {
  const absl::Status io = MakeError(ErrorKind::kIo, "");
  absl::Status status(absl::StatusCode::kNotFound, absl::StrCat("\"", path, "\": not found"));
  io.ForEachPayload([&status](absl::string_view url, const absl::Cord& payload) { status.SetPayload(url, payload); });
  return status;
}

absl::Status FileExistsError(absl::string_view path) {
  return MakeError(ErrorKind::kExists, absl::StrCat("\"", path, "\" exists already"));
}

absl::Status ReadPastEndError(absl::string_view path, int64_t offset, int64_t bytes, int64_t size_bytes) {
  return MakeError(ErrorKind::kTruncated, absl::StrCat("\"", path, "\": cannot read ", bytes, " bytes at ", offset,
                                                       ", file has ", size_bytes));
}

absl::Status FileLockedError(absl::string_view path, absl::string_view holder) {
  return MakeError(ErrorKind::kLocked,
                   absl::StrCat("\"", path, "\" is locked by ", holder.empty() ? "another process" : holder));
}

std::string FileLockDescription() {
  char host[256] = "";
  if (gethostname(host, sizeof(host) - 1) != 0) {
    host[0] = '\0';
  }
  return absl::StrCat("pid ", getpid(), " on ", host[0] == '\0' ? "an unnamed host" : host, " since ",
                      absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::Now(), absl::UTCTimeZone()));
}

}  // namespace waypoint
