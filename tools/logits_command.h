#ifndef TOOLS_LOGITS_COMMAND_H_
#define TOOLS_LOGITS_COMMAND_H_

// `logits DIR --tokens 1,2,3|FILE --output FILE`: float32 logits of any loadable checkpoint, for comparison with
// another implementation.  One thread.

#include <ostream>
#include <string>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoint/base/dtype.h"
#include "checkpoint/format/checkpoint_format.h"
#include "checkpoint/storage/file_system.h"
#include "tools/exit_codes.h"
#include "tools/output_file.h"

namespace waypoint {

struct LogitsRequest {
  std::string directory;  // resolved
  // Ids separated by commas, or the resolved path of a safetensors file with `input_ids`, int64 [batch, length].
  std::string tokens;
  std::string output;  // resolved; see output_file.h for what it may be
  bool overwrite = false;
  std::string format = "auto";
  // Round the weights to this before they are used in float32; kInvalid: do not.
  DType round_to = DType::kInvalid;
  bool carry_unknown = false;
  bool json = false;
  FormatOptionValues format_options;
  std::vector<std::string> strip_prefixes;
};

struct LogitsEnvironment {
  FileSystem& fs;
  std::ostream& out;
  std::ostream& err;
};

// Errors: E_REQUEST for what is neither ids nor a file; E_MISSING, E_DTYPE, E_SHAPE for a file without fitting
// `input_ids`.
absl::StatusOr<at::Tensor> ReadTokens(FileSystem& fs, const std::string& tokens);

// A safetensors file with the one tensor `logits`.
absl::Status WriteLogits(const OutputFile& output, const at::Tensor& logits);

absl::Status Logits(const LogitsRequest& request, const LogitsEnvironment& environment);

// main() of the tool.
ExitCode LogitsMain(int argc, const char* const* argv, const LogitsEnvironment& environment);

}  // namespace waypoint

#endif  // TOOLS_LOGITS_COMMAND_H_
