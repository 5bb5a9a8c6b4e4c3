#ifndef CHECKPOINT_CONVERT_CONFIG_COMPOSITE_H_
#define CHECKPOINT_CONVERT_CONFIG_COMPOSITE_H_

// Primitives that hand a part of the config to another section.
//
// `external` is the place of the part's object; "" merges its keys into the section's own object.  All of them claim
// their native field recursively: the other section was checked when it was built.

#include <string>
#include <vector>

#include "absl/types/optional.h"
#include "checkpoint/convert/config/primitive.h"
#include "checkpoint/convert/config/section.h"

namespace waypoint {

struct NestedOptions {
  // A key of the part's object that must hold this value, and is written first.
  std::string discriminator = "type";
  absl::optional<std::string> type_name;
  // The native message may be unset, and the external object absent; each exactly when the other is.  Not with "".
  bool optional = false;
};
// native: a singular message of the section's type.
PrimitivePtr Nested(std::string native, std::string external, Section section, NestedOptions options = {});

struct DispatchCase {
  // Member of the oneof, a message of the section's type.
  std::string member;
  // Value of the discriminator.
  std::string type_name;
  Section section;
};
// native: the message that holds the oneof, "" for the section's own.  oneof: of that message, for example
// *Mlp::descriptor()->FindOneofByName("kind").  The value of the discriminator chooses the member
// on import, the member the value on export.  A value or member without a case is E_UNSUPPORTED, naming the cases.
PrimitivePtr Dispatch(std::string native, const google::protobuf::OneofDescriptor& oneof, std::string external,
                      std::string discriminator, std::vector<DispatchCase> cases);

// native: a map from string to a message of the section's type.  external: an object with one object per entry. Entries
// of several kinds: a section with Dispatch("", ...) in it.
PrimitivePtr TypedDict(std::string native, std::string external, Section section);

}  // namespace waypoint

#endif  // CHECKPOINT_CONVERT_CONFIG_COMPOSITE_H_
