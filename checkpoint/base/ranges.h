#ifndef CHECKPOINT_BASE_RANGES_H_
#define CHECKPOINT_BASE_RANGES_H_

// The one place where numbers of messages are held against the ranges that their fields state (range.proto).
//
//   WAYPOINT_RETURN_IF_ERROR(CheckRanges(manifest, absl::StrCat("\"", path, "\""), ErrorKind::kSchema));
//
// Called wherever a message is parsed, before anything is computed, allocated or looped over by it.  Ranges keep
// numbers far from overflow and from work that never ends; what fits together is checked by who uses it.  Thread-safe.

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "checkpoint/base/error.h"
#include "google/protobuf/message.h"

namespace waypoint {

struct OutOfRange {
  std::string path;    // "checkpoint.keep", "tensors[3].shape[0]", "metrics[\"loss\"]"
  std::string value;   // as text
  std::string wanted;  // "0 to 4096", "a value of waypoint.Activation"
};

// The first `limit` numbers that are not in their ranges, in the order of the fields; messages below, lists and maps
// too, and the message in an Any whose type is linked.  Enums must have a value that their type names.  A number
// without a range is not in it.
std::vector<OutOfRange> FindOutOfRange(const google::protobuf::Message& message, size_t limit = 10);

// OK, or an error of the kind with all that FindOutOfRange finds: "WHAT: threads is 1000000000, wanted 0 to 4096; ...".
absl::Status CheckRanges(const google::protobuf::Message& message, absl::string_view what, ErrorKind kind);

}  // namespace waypoint

#endif  // CHECKPOINT_BASE_RANGES_H_
