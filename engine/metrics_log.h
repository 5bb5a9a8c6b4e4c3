#ifndef ENGINE_METRICS_LOG_H_
#define ENGINE_METRICS_LOG_H_

// The run's history, one JSON object per line and step:
//
//   {"step": 12, "loss": 3.25, "grad_norm": 0.5, "lr": 0.0003, "tokens": 49152, "seconds": 0.21}
//
// A run that resumes at step n continues a history that may have gone further before it was killed: lines after step
// n, and a torn last line, are cut off when the log is opened, because the run will make these steps again.  Nothing is
// cut off a file that is no such history: all its lines are as above, with steps that grow.
// `seconds` is the only value that differs between two runs of the same steps.
//
// Written straight to the operating system, past FileSystem: it is appended to, and losing its tail loses nothing that
// a resume needs.  One thread; Sync may run in another.

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace waypoint::engine {

struct StepMetrics {
  int64_t step = 0;      // the first is 1
  double loss = 0;       // mean over the step's tokens, of the weights before the step
  double grad_norm = 0;  // before clipping
  double lr = 0;
  int64_t tokens = 0;  // consumed in all
  double seconds = 0;  // of this step, saves left out
};

struct MetricsHistory {
  int64_t lines = 0;
  int64_t last_step = 0;  // 0 without lines
};

class MetricsLog {
 public:
  // What a file holds; nothing where there is none.  E_EXISTS, naming the line, where it is no history, or no file.
  static absl::StatusOr<MetricsHistory> Look(const std::string& path);
  // Makes the file if there is none (its directory must exist) and keeps its lines up to `last_step`.  E_EXISTS as
  // above.
  static absl::StatusOr<std::unique_ptr<MetricsLog>> Open(const std::string& path, int64_t last_step);
  ~MetricsLog();
  MetricsLog(const MetricsLog&) = delete;
  MetricsLog& operator=(const MetricsLog&) = delete;

  absl::Status Append(const StepMetrics& metrics);
  // Before a checkpoint is saved: a history that ends before the step one resumes from would have a hole.
  absl::Status Sync();

 private:
  MetricsLog(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}

  const std::string path_;
  const int fd_;
};

// The line of one step, as above, without the line break.
std::string MetricsLine(const StepMetrics& metrics);

}  // namespace waypoint::engine

#endif  // ENGINE_METRICS_LOG_H_
