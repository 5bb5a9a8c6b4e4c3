#ifndef CHECKPOINT_CONVERT_CONFIG_PRIMITIVE_H_
#define CHECKPOINT_CONVERT_CONFIG_PRIMITIVE_H_

// One declaration of a section: how a few native fields and a few external keys correspond, in both directions.
//
// Immutable and shared between families.  Thread-compatible: const methods may run concurrently.

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "checkpoint/convert/config/context.h"
#include "google/protobuf/message.h"

namespace waypoint {

// A native field that a declaration answers for, in both directions: what it does not write on export it checks.
struct NativeClaim {
  std::string path;
  // Answers for all below it too.  Without it the field must be a scalar, or repeated scalars.
  bool recursive = false;
};

class Primitive {
 public:
  virtual ~Primitive() = default;

  virtual std::vector<NativeClaim> native_claims() const = 0;
  // The external places, relative to the section, that it may read or write, each with all below it.
  virtual std::vector<std::string> external_claims() const = 0;

  // Whether it fits the message: called once, when the section is built.  Internal when not.
  virtual absl::Status Check(const google::protobuf::Descriptor& message) const = 0;

  // Both report into the context and go on.
  virtual void Import(ImportContext& context, google::protobuf::Message* message) const = 0;
  virtual void Export(const google::protobuf::Message& message, ExportContext& context) const = 0;

  // True when its native fields are dropped on purpose, so that an export need not give them back on import.
  virtual bool ignores_native() const { return false; }
};

using PrimitivePtr = std::shared_ptr<const Primitive>;

}  // namespace waypoint

#endif  // CHECKPOINT_CONVERT_CONFIG_PRIMITIVE_H_
