#ifndef CHECKPOINT_CONVERT_CONFIG_FIELD_PATH_H_
#define CHECKPOINT_CONVERT_CONFIG_FIELD_PATH_H_

// A field deep inside a protobuf message, by dotted field names: "decoder.fixed.mixer.attention.heads".
//
//   WAYPOINT_ASSIGN_OR_RETURN(const FieldPath heads, FieldPath::Resolve(*DecoderConfig::descriptor(), "decoder..."));
//   WAYPOINT_RETURN_IF_ERROR(heads.Write(Json(32), &config));
//
// A path goes through singular messages only, members of a oneof included; its last field may be anything.  Scalars
// travel as JSON values, enums as the names of their values.
// Thread-compatible: const methods may run concurrently.  Holds pointers into the descriptor pool.

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "checkpoint/base/json.h"
#include "google/protobuf/message.h"

namespace waypoint {

class FieldPath {
 public:
  // Internal, naming the segment, when the message has no such field.
  static absl::StatusOr<FieldPath> Resolve(const google::protobuf::Descriptor& root, absl::string_view path);

  const google::protobuf::FieldDescriptor& leaf() const { return *fields_.back(); }
  const std::string& text() const { return text_; }

  // Set means: present for fields with presence, not empty for repeated ones, not the default for the others.
  bool IsSet(const google::protobuf::Message& root) const;

  // The scalar; null for an unset field with presence, the default for an unset one without.  Repeated scalars are an
  // array, null when empty.  Messages, maps and repeated messages are null when unset, else their text.
  Json Read(const google::protobuf::Message& root) const;

  // The message that the path leads to; its default instance when unset.  For a singular message leaf.
  const google::protobuf::Message& ReadMessage(const google::protobuf::Message& root) const;

  // Strict: an integer field takes integers in its range, a float field any finite number, a bool true or false, a
  // string strings, an enum names of its values.  Messages on the way are made.
  // Errors: E_CONFIG that says what is wanted; Internal when the path would switch a oneof to another member.
  absl::Status Write(const Json& value, google::protobuf::Message* root) const;

  // The message that the path leads to, made when unset.  For a singular message leaf.  Errors: Internal as Write.
  absl::StatusOr<google::protobuf::Message*> MutableMessage(google::protobuf::Message* root) const;

  // The message that holds the leaf.
  const google::protobuf::Message& Parent(const google::protobuf::Message& root) const;
  absl::StatusOr<google::protobuf::Message*> MutableParent(google::protobuf::Message* root) const;

  // Whether two messages hold the same below this path.
  bool Equal(const google::protobuf::Message& a, const google::protobuf::Message& b) const;

 private:
  FieldPath() = default;

  std::string text_;
  std::vector<const google::protobuf::FieldDescriptor*> fields_;
};

}  // namespace waypoint

#endif  // CHECKPOINT_CONVERT_CONFIG_FIELD_PATH_H_
