#ifndef TOOLS_CONVERT_REQUEST_H_
#define TOOLS_CONVERT_REQUEST_H_

// The command line of `convert`.  Does not link libtorch.  Thread-safe.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "checkpoint/base/dtype.h"
#include "tools/format_flags.h"
#include "tools/resident_memory.h"

namespace waypoint {

enum class VerifyMode { kNone, kDigest, kLogits };

struct ConvertRequest {
  std::string source;  // resolved paths
  std::string target;
  std::string from = "auto";
  std::string to = "auto";
  DType dtype = DType::kInvalid;  // kInvalid keeps
  int64_t max_shard_bytes = 5'000'000'000;
  bool wants_shard_size = false;  // the user gave one
  int64_t max_memory_bytes = kDefaultMaxMemory;
  int threads = 0;  // 0 chooses
  bool dry_run = false;
  bool print_plan = false;
  VerifyMode verify = VerifyMode::kDigest;
  bool keep_optimizer = true;
  bool overwrite = false;
  bool carry_unknown = false;
  bool drop_unknown = false;
  std::vector<std::string> strip_prefixes;
  bool json = false;
  FormatOptionValues format_options;
  // RANK and WORLD_SIZE say which of several processes this is; else it works alone, whatever they say.
  bool shares_work = false;
  // Between ranks; see convert_ranks.h.
  absl::Duration rank_timeout = absl::Minutes(30);
};

// Empty when the user asked for help, which is then in *help.
// Errors: E_REQUEST, with what to write instead.
absl::StatusOr<absl::optional<ConvertRequest>> ParseConvertRequest(int argc, const char* const* argv,
                                                                   const std::vector<FormatChoice>& formats,
                                                                   std::string* help);

}  // namespace waypoint

#endif  // TOOLS_CONVERT_REQUEST_H_
