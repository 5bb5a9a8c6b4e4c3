#ifndef TOOLS_CONVERT_REPORT_H_
#define TOOLS_CONVERT_REPORT_H_

// What `convert` did, for people and for scripts.  Does not link libtorch.  Thread-safe.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "tools/convert_request.h"

namespace waypoint {

struct ConvertReport {
  std::string source;
  std::string target;
  std::string from;
  std::string to;
  int64_t tensors = 0;
  int64_t bytes = 0;
  absl::Duration duration;  // of reading, converting and writing, sync included
  absl::Duration verify_duration;
  VerifyMode verify = VerifyMode::kNone;
  int64_t peak_memory_growth_bytes = 0;  // resident, above what the program held at its start
  int64_t peak_bytes_in_flight = 0;
  bool dry_run = false;
  std::vector<std::string> notes;
  bool has_plan = false;
  std::vector<std::string> plan;  // target = expression over source tensors

  double bytes_per_second() const;
};

// The plan is not repeated: it is printed before the work starts.
std::string ReportText(const ConvertReport& report);
// With the plan.
std::string ReportJson(const ConvertReport& report);

}  // namespace waypoint

#endif  // TOOLS_CONVERT_REPORT_H_
