#include "engine/metrics_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <limits>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/status_macros.h"
#include "nlohmann/json.hpp"

namespace waypoint::engine {
namespace {

// What a line begins with, whichever step it is of.
constexpr absl::string_view kLineBegin = "{\"step\":";
// More than any line of ours has.
constexpr size_t kMaxLineBytes = 4096;

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) {
      close(fd_);
    }
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  int Take() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

// The step of a line of ours; 0 for any other.
int64_t StepOf(absl::string_view line) {
  const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("step") || !json["step"].is_number_integer()) {
    return 0;
  }
  for (const char* key : {"loss", "grad_norm", "lr", "tokens", "seconds"}) {
    // null: a number that JSON has no word for.
    if (!json.contains(key) || !(json[key].is_number() || json[key].is_null())) {
      return 0;
    }
  }
  return std::max<int64_t>(0, json["step"].get<int64_t>());
}

bool IsBlank(absl::string_view bytes) { return bytes.find_first_not_of('\0') == absl::string_view::npos; }

class HistoryReader {
 public:
  // Counts up to `last_step`, and reads on to the end.
  HistoryReader(int fd, const std::string& path, int64_t last_step) : fd_(fd), path_(path), last_step_(last_step) {}

  absl::Status Read() {
    char buffer[1 << 16];
    for (int64_t offset = 0;;) {
      const ssize_t got = pread(fd_, buffer, sizeof(buffer), offset);
      if (got < 0 && errno == EINTR) {
        continue;
      }
      if (got < 0) {
        return ErrnoError(errno, absl::StrCat("metrics \"", path_, "\": read"));
      }
      if (got == 0) {
        return IsTorn() ? absl::OkStatus() : Foreign();
      }
      offset += got;
      WAYPOINT_RETURN_IF_ERROR(Take(absl::string_view(buffer, static_cast<size_t>(got))));
    }
  }

  MetricsHistory kept;
  int64_t kept_bytes = 0;

 private:
  absl::Status Take(absl::string_view bytes) {
    while (!bytes.empty()) {
      const size_t end = bytes.find('\n');
      const absl::string_view piece = bytes.substr(0, end);
      // A byte more than a line of ours may have tells that it is none.
      rest_.append(piece.data(), std::min(piece.size(), kMaxLineBytes + 1 - rest_.size()));
      rest_is_blank_ = rest_is_blank_ && IsBlank(piece);
      if (end == absl::string_view::npos) {
        return absl::OkStatus();
      }
      bytes.remove_prefix(end + 1);
      WAYPOINT_RETURN_IF_ERROR(TakeLine());
    }
    return absl::OkStatus();
  }

  // Whether the rest may be what a crash left of lines that were not synced: the begin of one, or blocks that were
  // never written.
  bool IsTorn() const {
    const size_t common = std::min(rest_.size(), kLineBegin.size());
    return rest_is_blank_ || (rest_.size() <= kMaxLineBytes && rest_.substr(0, common) == kLineBegin.substr(0, common));
  }

  absl::Status TakeLine() {
    const int64_t step = StepOf(rest_);
    if (step <= step_) {
      return Foreign();
    }
    step_ = step;
    ++lines_;
    if (step <= last_step_) {
      kept = {lines_, step};
      kept_bytes += static_cast<int64_t>(rest_.size()) + 1;
    }
    rest_.clear();
    rest_is_blank_ = true;
    return absl::OkStatus();
  }

  absl::Status Foreign() const {
    return MakeError(
        ErrorKind::kExists,
        absl::StrCat("\"", path_, "\" is no history of this trainer, which would cut it: line ", lines_ + 1,
                     step_ > 0 ? absl::StrCat(", after step ", step_, ",") : "",
                     " is not a JSON object of a later step with step, loss, grad_norm, lr, tokens and seconds; move "
                     "it away, or choose another `output`"));
  }

  const int fd_;
  const std::string& path_;
  const int64_t last_step_;
  std::string rest_;           // of a line that has not ended
  bool rest_is_blank_ = true;  // nothing, or bytes of 0
  int64_t lines_ = 0;
  int64_t step_ = 0;
};

// O_NONBLOCK: a FIFO must not hang us.
absl::StatusOr<int> OpenFile(const std::string& path, int flags) {
  Descriptor file(open(path.c_str(), flags | O_CLOEXEC | O_NONBLOCK, 0666));
  struct stat info;
  if (file.get() < 0 || fstat(file.get(), &info) != 0) {
    return errno == ENOENT ? absl::NotFoundError(path)
                           : ErrnoError(errno, absl::StrCat("metrics \"", path, "\": open"));
  }
  if (!S_ISREG(info.st_mode)) {
    return MakeError(ErrorKind::kExists, absl::StrCat("metrics \"", path,
                                                      "\" is no regular file; move it away, or choose another "
                                                      "`output`"));
  }
  return file.Take();
}

}  // namespace

std::string MetricsLine(const StepMetrics& metrics) {
  nlohmann::ordered_json line;
  line["step"] = metrics.step;
  line["loss"] = metrics.loss;  // JSON has no NaN: it is written as null
  line["grad_norm"] = metrics.grad_norm;
  line["lr"] = metrics.lr;
  line["tokens"] = metrics.tokens;
  line["seconds"] = std::round(metrics.seconds * 1e6) / 1e6;
  return line.dump();
}

absl::StatusOr<MetricsHistory> MetricsLog::Look(const std::string& path) {
  const absl::StatusOr<int> opened = OpenFile(path, O_RDONLY);
  if (absl::IsNotFound(opened.status())) {
    return MetricsHistory();
  }
  WAYPOINT_RETURN_IF_ERROR(opened.status());
  const Descriptor file(*opened);
  HistoryReader reader(file.get(), path, std::numeric_limits<int64_t>::max());
  WAYPOINT_RETURN_IF_ERROR(reader.Read());
  return reader.kept;
}

absl::StatusOr<std::unique_ptr<MetricsLog>> MetricsLog::Open(const std::string& path, int64_t last_step) {
  absl::StatusOr<int> opened = OpenFile(path, O_RDWR | O_CREAT | O_APPEND);
  if (absl::IsNotFound(opened.status())) {
    return ErrnoError(ENOENT, absl::StrCat("metrics \"", path, "\": open"));
  }
  WAYPOINT_RETURN_IF_ERROR(opened.status());
  auto log = absl::WrapUnique(new MetricsLog(path, *opened));
  // What is cut is what was looked at, whatever the name leads to by then.
  HistoryReader reader(log->fd_, path, last_step);
  WAYPOINT_RETURN_IF_ERROR(reader.Read());
  if (ftruncate(log->fd_, reader.kept_bytes) != 0) {
    return ErrnoError(errno, absl::StrCat("metrics \"", path, "\": ftruncate"));
  }
  return log;
}

MetricsLog::~MetricsLog() { close(fd_); }

absl::Status MetricsLog::Append(const StepMetrics& metrics) {
  const std::string line = absl::StrCat(MetricsLine(metrics), "\n");
  absl::string_view rest = line;
  while (!rest.empty()) {
    const ssize_t written = write(fd_, rest.data(), rest.size());
    if (written < 0) {
      if (errno == EINTR) {
        continue;
      }
      return ErrnoError(errno, absl::StrCat("metrics \"", path_, "\": write"));
    }
    rest.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

absl::Status MetricsLog::Sync() {
  if (fsync(fd_) != 0) {
    return ErrnoError(errno, absl::StrCat("metrics \"", path_, "\": fsync"));
  }
  return absl::OkStatus();
}

}  // namespace waypoint::engine
