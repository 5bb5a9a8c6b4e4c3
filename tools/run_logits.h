#ifndef TOOLS_RUN_LOGITS_H_
#define TOOLS_RUN_LOGITS_H_

// The `logits` program as a function, for programs that shall not link libtorch: it takes half a second to start, which
// is most of a small conversion.  Thread-safe.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "checkpoint/base/dtype.h"
#include "checkpoint/format/checkpoint_format.h"

namespace waypoint {

struct LogitsRun {
  std::string directory;
  std::string format;
  bool carry_unknown = false;
  FormatOptionValues format_options;
  std::vector<std::string> strip_prefixes;
  // Round the weights to this first; kInvalid: do not.
  DType round_to = DType::kInvalid;
  // Polled; true ends the program and the call.
  std::function<bool()> interrupted;
  // One sequence.
  std::vector<int64_t> tokens;
};

// The program beside the running one.
std::string LogitsProgramBeside();

// Logits of every position, row-major.  Uses a directory below $TMPDIR for the time of the call.
// Errors: E_VERIFY with what the program said; Cancelled when it was interrupted; E_IO.
absl::StatusOr<std::vector<float>> RunLogits(const std::string& program, const LogitsRun& run);

}  // namespace waypoint

#endif  // TOOLS_RUN_LOGITS_H_
