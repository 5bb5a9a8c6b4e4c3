#ifndef CHECKPOINT_CONVERT_CONFIG_NATIVE_COVERAGE_H_
#define CHECKPOINT_CONVERT_CONFIG_NATIVE_COVERAGE_H_

// Whether a set of declarations answers for every field of a native message.  Pure functions of descriptors: a new
// field makes every family that does not speak of it fail to build, before any config is converted.  Thread-safe.

#include <string>
#include <vector>

#include "checkpoint/convert/config/primitive.h"
#include "google/protobuf/descriptor.h"

namespace waypoint {

struct NamedClaim {
  // Of the declaration, for messages.
  std::string declaration;
  NativeClaim claim;
};

// One problem that lists all reachable fields without the `architecture` option; none when there are none.
std::vector<std::string> CheckArchitectureOptions(const google::protobuf::Descriptor& root);

// Problems: fields that no claim covers, fields covered twice, claims that fit no field.
//
// A scalar (or repeated scalar) wants its own claim or a recursive one above it.  A singular message is covered when
// all its fields are, or by a recursive claim; maps, repeated messages, messages without fields (their presence is what
// they say) and messages inside of themselves want a recursive claim.
std::vector<std::string> CheckNativeCoverage(const google::protobuf::Descriptor& root,
                                             const std::vector<NamedClaim>& claims);

}  // namespace waypoint

#endif  // CHECKPOINT_CONVERT_CONFIG_NATIVE_COVERAGE_H_
