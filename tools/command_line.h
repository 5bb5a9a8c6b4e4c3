#ifndef TOOLS_COMMAND_LINE_H_
#define TOOLS_COMMAND_LINE_H_

// What every tool shares: paths, byte sizes, errors and progress on a terminal.  Does not link libtorch.
//
// ProgressPrinter: Update may be called by several threads, one at a time.  All else is thread-safe.

#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "checkpoint/base/dtype.h"
#include "tools/exit_codes.h"

namespace waypoint {

// Relative paths are the caller's: `bazel run` starts a program elsewhere and says in BUILD_WORKING_DIRECTORY from
// where.  Slashes at the end are dropped.
std::string ResolvePath(absl::string_view path);

// "5GB" (decimal), "256MiB" (binary), "1.5 GB", "7B".  Case does not matter; "K", "M", "G", "T" are decimal.  A number
// alone is bytes from a million on; below, its unit was forgotten more likely than meant, and is asked for.
// Errors: E_REQUEST for anything else, for zero, and beyond 63 bits.
absl::StatusOr<int64_t> ParseBytes(absl::string_view text);

// A type of weights as people write it (dtype_words.h).  Errors: E_REQUEST for anything else.
absl::StatusOr<DType> ParseWeightsDType(absl::string_view text);

// "2.50 GB": decimal, three digits.
std::string HumanBytes(double bytes);
// "256 MiB": binary, for memory.
std::string HumanMemory(int64_t bytes);
// "0.42 s", "3:07", "2:03:07".
std::string HumanDuration(absl::Duration duration);
// "1 tensor", "21 tensors".
std::string Count(int64_t count, absl::string_view noun);

// Prints `error: E_TRUNCATED: message` to `err` and, for scripts, {"error": {"kind", "message", "exit_code"}} to `out`.
// Returns the exit code.
ExitCode ReportError(const absl::Status& status, bool json, std::ostream& out, std::ostream& err);

// A line that is rewritten in place: share done, rate, time left.  Silent unless enabled.
class ProgressPrinter {
 public:
  ProgressPrinter(std::string label, bool enabled, std::ostream& err);
  ~ProgressPrinter() { Clear(); }
  ProgressPrinter(const ProgressPrinter&) = delete;
  ProgressPrinter& operator=(const ProgressPrinter&) = delete;

  void Update(int64_t bytes_done, int64_t bytes_total);
  // Removes the line, so that what is printed next starts clean.
  void Clear();

 private:
  const std::string label_;
  const bool enabled_;
  std::ostream& err_;
  const absl::Time start_;
  absl::Time last_;
  bool shown_ = false;
};

// "  converting  43% of 2.50 GB, 1.21 GB/s, 0:01 left".
std::string ProgressLine(absl::string_view label, int64_t bytes_done, int64_t bytes_total, absl::Duration elapsed);

// Whether a person is looking at stderr.
bool StderrIsTerminal();

// SIGINT, SIGTERM and SIGHUP (unless it is ignored, as under nohup) set a flag instead of killing the process; a second
// one kills as usual.
void CatchInterrupts();
bool Interrupted();

// What a program that reads and writes checkpoints asks of the system, once, before it starts threads: as many open
// files as it may have, since a checkpoint is as many files as its writer liked; an error of the write that goes
// beyond RLIMIT_FSIZE, in place of SIGXFSZ, which kills; and, where a standard stream is closed, that no file of ours
// gets its number: it stays one that fails.
void PrepareProcess();

}  // namespace waypoint

#endif  // TOOLS_COMMAND_LINE_H_
