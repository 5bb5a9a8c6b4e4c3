#ifndef CHECKPOINT_CONVERT_CONFIG_SECTION_H_
#define CHECKPOINT_CONVERT_CONFIG_SECTION_H_

// How one native message corresponds to one external object: an ordered map from stable keys to primitives.
//
//   WAYPOINT_ASSIGN_OR_RETURN(Section llama, SectionBuilder(*DecoderConfig::descriptor())
//                                                .Add("hidden_size", Rename("hidden_size", "hidden_size"))
//                                                ...
//                                                .Build());
//   WAYPOINT_ASSIGN_OR_RETURN(Section mistral, SectionBuilder(llama)
//                                                  .Replace("model_type", ConstantExport("model_type", "mistral"))
//                                                  .Remove("mlp_bias")
//                                                  ...
//                                                  .Build());
//
// Build refuses, with all problems in one Internal error, a message with a field that lacks the `architecture` option,
// and declarations that do not claim every native field exactly once (native_coverage.h).
// Thread-compatible: const methods may run concurrently.  Copies are cheap; primitives are shared.

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "checkpoint/convert/config/context.h"
#include "checkpoint/convert/config/primitive.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"

namespace waypoint {

struct Declaration {
  std::string key;
  PrimitivePtr primitive;
};

class Section {
 public:
  const google::protobuf::Descriptor& message() const { return *message_; }
  const std::vector<Declaration>& declarations() const { return declarations_; }

  // Every declaration in order.  Problems go into the context.
  void Import(ImportContext context, google::protobuf::Message* message) const;
  void Export(const google::protobuf::Message& message, ExportContext context) const;

  // One declaration, kept to its claims.
  static void ImportOne(const Declaration& declaration, ImportContext context, google::protobuf::Message* message);
  static void ExportOne(const Declaration& declaration, const google::protobuf::Message& message,
                        ExportContext context);

 private:
  friend class SectionBuilder;
  explicit Section(const google::protobuf::Descriptor* message) : message_(message) {}

  const google::protobuf::Descriptor* message_;
  std::vector<Declaration> declarations_;
};

class SectionBuilder {
 public:
  explicit SectionBuilder(const google::protobuf::Descriptor& message) : section_(&message) {}
  // A family derived from another: starts with its declarations.
  explicit SectionBuilder(const Section& base) : section_(base) {}

  // A new key, at the end.
  SectionBuilder& Add(std::string key, PrimitivePtr primitive);
  // A key that is there keeps its position.
  SectionBuilder& Replace(absl::string_view key, PrimitivePtr primitive);
  SectionBuilder& Remove(absl::string_view key);

  absl::StatusOr<Section> Build() const;

 private:
  Declaration* FindKey(absl::string_view key);

  Section section_;
  std::vector<std::string> problems_;
};

}  // namespace waypoint

#endif  // CHECKPOINT_CONVERT_CONFIG_SECTION_H_
