#ifndef CHECKPOINT_CONVERT_CONFIG_CARRIED_KEY_H_
#define CHECKPOINT_CONVERT_CONFIG_CARRIED_KEY_H_

// A key of an external config that the native config does not hold: it travels in the original document only.

#include <string>
#include <vector>

namespace waypoint {

struct CarriedKey {
  // A JsonPath (json_path.h) from the document's root.
  std::vector<std::string> path;
  // Why it changes nothing that the model computes; empty: nobody knows the key, it was let in on request.
  std::string reason;

  bool unknown() const { return reason.empty(); }
};

}  // namespace waypoint

#endif  // CHECKPOINT_CONVERT_CONFIG_CARRIED_KEY_H_
