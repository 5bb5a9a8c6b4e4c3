#include "engine/metrics_log.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <fstream>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "checkpoint/base/error.h"
#include "nlohmann/json.hpp"

namespace waypoint::engine {
namespace {

// Bytes of the lines up to the first one that is torn, strange or of a later step.
int64_t BytesToKeep(const std::string& path, int64_t last_step) {
  std::ifstream file(path, std::ios::binary);
  int64_t kept = 0;
  std::string line;
  while (std::getline(file, line) && !file.eof()) {  // eof: the last line has no line break, so it is torn
    const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object() || !json.contains("step") || !json["step"].is_number_integer() ||
        json["step"].get<int64_t>() > last_step) {
      break;
    }
    kept += static_cast<int64_t>(line.size()) + 1;
  }
  return kept;
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

absl::StatusOr<std::unique_ptr<MetricsLog>> MetricsLog::Open(const std::string& path, int64_t last_step) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (fd < 0) {
    return ErrnoError(errno, absl::StrCat("metrics \"", path, "\": open"));
  }
  auto log = absl::WrapUnique(new MetricsLog(path, fd));
  if (ftruncate(fd, BytesToKeep(path, last_step)) != 0) {
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
