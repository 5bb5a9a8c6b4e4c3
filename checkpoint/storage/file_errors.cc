#include "checkpoint/storage/file_errors.h"

#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "checkpoint/base/error.h"

namespace waypoint {
namespace {

constexpr absl::string_view kSince = " since ";
constexpr char kTimeFormat[] = "%Y-%m-%dT%H:%M:%SZ";

}  // namespace

absl::Status FileNotFoundError(absl::string_view path) {
  const absl::Status io = MakeError(ErrorKind::kIo, absl::StrCat("\"", path, "\": not found"));
  absl::Status status(absl::StatusCode::kNotFound, io.message());
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

absl::Status SharedSizeError(absl::string_view path, int64_t size_bytes, int64_t wanted_bytes) {
  return MakeError(ErrorKind::kSizeMismatch,
                   absl::StrCat("\"", path, "\" has ", size_bytes, " bytes, its writers agreed on ", wanted_bytes));
}

absl::Status FileLockedError(absl::string_view path, absl::string_view holder) {
  std::string age;
  absl::Time since;
  const size_t at = holder.rfind(kSince);
  // Nothing but what people read: of a description that is not ours, no age is told.
  if (at != absl::string_view::npos &&
      absl::ParseTime(kTimeFormat, holder.substr(at + kSince.size()), absl::UTCTimeZone(), &since, nullptr)) {
    age = absl::StrCat(" (", absl::ToInt64Seconds(std::max(absl::Now() - since, absl::ZeroDuration())), "s ago)");
  }
  return MakeError(ErrorKind::kLocked,
                   absl::StrCat("\"", path, "\" is locked by ", holder.empty() ? "another process" : holder, age));
}

std::string FileLockDescription() {
  char host[256] = "";
  if (gethostname(host, sizeof(host) - 1) != 0) {
    host[0] = '\0';
  }
  return absl::StrCat("pid ", getpid(), " on ", host[0] == '\0' ? "an unnamed host" : host, kSince,
                      absl::FormatTime(kTimeFormat, absl::Now(), absl::UTCTimeZone()));
}

}  // namespace waypoint
