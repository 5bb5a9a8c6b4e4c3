#ifndef CHECKPOINT_FORMAT_STRIP_PREFIX_H_
#define CHECKPOINT_FORMAT_STRIP_PREFIX_H_

// Names of tensors that begin with what a wrapper left there: "module." of data parallelism, "_orig_mod." of
// torch.compile, "model." of a trainer that saved more than the model.
//
//   PrefixStripper stripper(options.strip_prefixes);
//   for (file : files) WAYPOINT_RETURN_IF_ERROR(stripper.Apply(file.names));
//   WAYPOINT_RETURN_IF_ERROR(stripper.Finish());
//
// One thread.

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace waypoint {

class PrefixStripper {
 public:
  explicit PrefixStripper(const std::vector<std::string>& prefixes) : prefixes_(prefixes), taken_(prefixes.size(), 0) {}

  // Takes each prefix in turn off every name that begins with it, once.  The names are those that must stay different
  // from each other, as they are before.  Errors: E_REQUEST for an empty prefix, when a name becomes that of another,
  // or empty.
  absl::Status Apply(absl::Span<std::string* const> names);
  // E_REQUEST when no name began with one of the prefixes.
  absl::Status Finish() const;

 private:
  const std::vector<std::string>& prefixes_;
  std::vector<int64_t> taken_;  // by prefix
  std::string example_;         // the first name of all, as it is now
};

// Formats of our own write names without wrappers.  E_REQUEST when there are prefixes.
absl::Status RefuseStripPrefixes(const std::vector<std::string>& prefixes, absl::string_view format);

// What an error about tensors that are missing should add: "; 21 tensors fit when ...: --strip-prefix module."; empty
// when no prefix makes names that are present names that are wanted.
std::string StripRemedy(const std::vector<absl::string_view>& wanted, const std::vector<absl::string_view>& present);

// The status with the remedy behind its message, where it says that tensors are missing or left over.
absl::Status WithRemedy(const absl::Status& status, absl::string_view remedy);

}  // namespace waypoint

#endif  // CHECKPOINT_FORMAT_STRIP_PREFIX_H_
