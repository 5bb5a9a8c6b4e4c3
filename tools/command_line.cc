#include "tools/command_line.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstdlib>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "checkpoint/base/dtype_words.h"
#include "checkpoint/base/error.h"
#include "checkpoint/base/visible_text.h"
#include "nlohmann/json.hpp"
#include "tools/report_json.h"

namespace waypoint {
namespace {

struct Unit {
  const char* suffix;
  double bytes;
};

// Longer suffixes first: "MiB" ends with "B" too.
constexpr Unit kUnits[] = {
    {"KIB", 1024.0},
    {"MIB", 1048576.0},
    {"GIB", 1073741824.0},
    {"TIB", 1099511627776.0},
    {"KB", 1e3},
    {"MB", 1e6},
    {"GB", 1e9},
    {"TB", 1e12},
    {"K", 1e3},
    {"M", 1e6},
    {"G", 1e9},
    {"T", 1e12},
    {"B", 1.0},
};

// Nobody means 5 bytes by "5".
constexpr int64_t kLeastBare = 1'000'000;

std::string ThreeDigits(double value, absl::string_view unit) {
  const int decimals = value < 10 ? 2 : value < 100 ? 1 : 0;
  return absl::StrFormat("%.*f %s", decimals, value, unit);
}

std::atomic<bool> interrupted{false};

void OnSignal(int) { interrupted.store(true); }

}  // namespace

std::string ResolvePath(absl::string_view path) {
  std::string resolved(path);
  const char* directory = std::getenv("BUILD_WORKING_DIRECTORY");
  if (directory != nullptr && !path.empty() && path[0] != '/') {
    resolved = absl::StrCat(directory, "/", path);
  }
  while (resolved.size() > 1 && resolved.back() == '/') {
    resolved.pop_back();
  }
  return resolved;
}

absl::StatusOr<int64_t> ParseBytes(absl::string_view text) {
  const absl::Status bad = MakeError(
      ErrorKind::kRequest, absl::StrCat("\"", text, "\" is no size; write a number of bytes, 5GB, or 256MiB"));
  const std::string upper = absl::AsciiStrToUpper(absl::StripAsciiWhitespace(text));
  absl::string_view number = upper;
  double unit_bytes = 1;
  for (const Unit& unit : kUnits) {
    if (absl::EndsWith(number, unit.suffix)) {
      number.remove_suffix(absl::string_view(unit.suffix).size());
      unit_bytes = unit.bytes;
      break;
    }
  }
  number = absl::StripAsciiWhitespace(number);
  // Digits and one point only: SimpleAtod would take "inf", hex and exponents too.
  if (number.empty() || number.find_first_not_of("0123456789.") != absl::string_view::npos) {
    return bad;
  }
  int64_t whole = 0;
  if (unit_bytes == 1 && absl::SimpleAtoi(number, &whole)) {
    if (whole > 0 && whole < kLeastBare && !absl::EndsWith(upper, "B")) {
      return MakeError(ErrorKind::kRequest, absl::StrCat("\"", text, "\" has no unit: ", whole, "GB or ", whole,
                                                         "B? write which (B, KB, MB, GB, KiB, MiB, GiB)"));
    }
    return whole > 0 ? absl::StatusOr<int64_t>(whole) : bad;
  }
  double value = 0;
  if (!absl::SimpleAtod(number, &value)) {
    return bad;
  }
  const double bytes = std::floor(value * unit_bytes);
  if (!(bytes >= 1 && bytes < 9.2e18)) {
    return bad;
  }
  return static_cast<int64_t>(bytes);
}

absl::StatusOr<DType> ParseWeightsDType(absl::string_view text) {
  const DType dtype = DTypeFromWord(text);
  if (dtype == DType::kInvalid) {
    return MakeError(ErrorKind::kRequest,
                     absl::StrCat("\"", text, "\" is no type of weights; choose from ", DTypeWords()));
  }
  return dtype;
}

std::string HumanBytes(double bytes) {
  if (bytes < 1e3) {
    return absl::StrFormat("%.0f B", bytes);
  }
  if (bytes < 1e6) {
    return ThreeDigits(bytes / 1e3, "kB");
  }
  if (bytes < 1e9) {
    return ThreeDigits(bytes / 1e6, "MB");
  }
  return bytes < 1e12 ? ThreeDigits(bytes / 1e9, "GB") : ThreeDigits(bytes / 1e12, "TB");
}

std::string HumanMemory(int64_t bytes) { return absl::StrFormat("%.0f MiB", static_cast<double>(bytes) / 1048576.0); }

std::string HumanDuration(absl::Duration duration) {
  if (duration < absl::Seconds(60)) {
    return absl::StrFormat("%.2f s", absl::ToDoubleSeconds(duration));
  }
  const int64_t seconds = absl::ToInt64Seconds(duration);
  if (seconds < 3600) {
    return absl::StrFormat("%d:%02d", seconds / 60, seconds % 60);
  }
  return absl::StrFormat("%d:%02d:%02d", seconds / 3600, seconds / 60 % 60, seconds % 60);
}

std::string Count(int64_t count, absl::string_view noun) {
  return absl::StrCat(count, " ", noun, count == 1 ? "" : "s");
}

ExitCode ReportError(const absl::Status& status, bool json, std::ostream& out, std::ostream& err) {
  const ExitCode code = ExitCodeFor(status);
  const absl::string_view kind = code == kExitInterrupted ? "interrupted" : ErrorKindName(GetErrorKind(status));
  // Messages of MakeError and the like are visible already, others one line.
  const bool ours = GetErrorKind(status) != ErrorKind::kUnknown;
  const std::string message = VisibleText(status.message(), ours ? NewLines::kIndented : NewLines::kEscaped);
  err << "error: " << kind << ": " << message << std::endl;
  if (json) {
    nlohmann::ordered_json report;
    report["error"]["kind"] = std::string(kind);
    report["error"]["message"] = message;
    report["error"]["exit_code"] = static_cast<int>(code);
    out << ReportJsonText(report) << std::endl;
  }
  return code;
}

std::string ProgressLine(absl::string_view label, int64_t bytes_done, int64_t bytes_total, absl::Duration elapsed) {
  const double seconds = absl::ToDoubleSeconds(elapsed);
  const double share = bytes_total > 0 ? static_cast<double>(bytes_done) / static_cast<double>(bytes_total) : 1.0;
  const double rate = seconds > 0 ? static_cast<double>(bytes_done) / seconds : 0;
  std::string line =
      absl::StrFormat("%s %3.0f%% of %s", label, share * 100, HumanBytes(static_cast<double>(bytes_total)));
  if (rate > 0) {
    const double seconds_left = static_cast<double>(bytes_total - bytes_done) / rate;
    absl::StrAppend(&line, ", ", HumanBytes(rate), "/s, ", HumanDuration(absl::Seconds(seconds_left)), " left");
  }
  return line;
}

ProgressPrinter::ProgressPrinter(std::string label, bool enabled, std::ostream& err)
    : label_(std::move(label)), enabled_(enabled), err_(err), start_(absl::Now()), last_(absl::InfinitePast()) {}

void ProgressPrinter::Update(int64_t bytes_done, int64_t bytes_total) {
  const absl::Time now = absl::Now();
  if (!enabled_ || now - last_ < absl::Milliseconds(100)) {
    return;
  }
  last_ = now;
  shown_ = true;
  err_ << "\r\033[K" << ProgressLine(label_, bytes_done, bytes_total, now - start_) << std::flush;
}

void ProgressPrinter::Clear() {
  if (shown_) {
    err_ << "\r\033[K" << std::flush;
    shown_ = false;
  }
}

bool StderrIsTerminal() { return isatty(STDERR_FILENO) == 1; }

void CatchInterrupts() {
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  // One chance to stop cleanly; whoever insists is obeyed.
  action.sa_flags = SA_RESETHAND;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  struct sigaction hangup = {};
  if (sigaction(SIGHUP, nullptr, &hangup) == 0 && hangup.sa_handler != SIG_IGN) {
    sigaction(SIGHUP, &action, nullptr);
  }
}

void PrepareProcess() {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (fcntl(fd, F_GETFD) < 0 && errno == EBADF) {
      // The lowest number that is free is this one.  The wrong way round: what is written fails as before.
      (void)!open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
    }
  }
  std::signal(SIGXFSZ, SIG_IGN);
  struct rlimit files = {};
  if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
  }
}

bool Interrupted() { return interrupted.load(); }

}  // namespace waypoint
