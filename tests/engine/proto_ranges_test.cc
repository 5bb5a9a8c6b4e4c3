// Every number that the program reads from a message has a stated range, and ranges can be met.

#include <cmath>
#include <set>

#include "checkpoint/base/range.pb.h"
#include "checkpoint/format/distributed/records.pb.h"
#include "checkpoint/format/held_tensors.pb.h"
#include "checkpoint/format/native/manifest.pb.h"
#include "engine/config.pb.h"
#include "gtest/gtest.h"

namespace waypoint {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::FileDescriptor;

bool IsNumber(const FieldDescriptor& field) {
  switch (field.is_map() ? field.message_type()->map_value()->cpp_type() : field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
    case FieldDescriptor::CPPTYPE_INT64:
    case FieldDescriptor::CPPTYPE_UINT32:
    case FieldDescriptor::CPPTYPE_UINT64:
    case FieldDescriptor::CPPTYPE_DOUBLE:
    case FieldDescriptor::CPPTYPE_FLOAT:
      return true;
    default:
      return false;
  }
}

class ProtoRangesTest : public testing::Test {
 protected:
  // The file and all of ours that it imports.
  void Visit(const FileDescriptor& file) {
    if (!visited_.insert(&file).second) {
      return;
    }
    for (int i = 0; i < file.dependency_count(); ++i) {
      Visit(*file.dependency(i));
    }
    if (file.package().rfind("waypoint", 0) != 0 || &file == Range::descriptor()->file()) {
      return;
    }
    for (int i = 0; i < file.message_type_count(); ++i) {
      Visit(*file.message_type(i));
    }
  }

  void Visit(const Descriptor& message) {
    for (int i = 0; i < message.nested_type_count(); ++i) {
      if (!message.nested_type(i)->options().map_entry()) {
        Visit(*message.nested_type(i));
      }
    }
    for (int i = 0; i < message.field_count(); ++i) {
      const FieldDescriptor& field = *message.field(i);
      if (!IsNumber(field)) {
        continue;
      }
      ++numbers_;
      ASSERT_TRUE(field.options().HasExtension(range)) << field.full_name() << " states no range";
      const Range& stated = field.options().GetExtension(range);
      EXPECT_TRUE(stated.any() ||
                  (stated.min() < stated.max() && std::isfinite(stated.max()) && std::isfinite(stated.min())))
          << field.full_name();
    }
  }

  std::set<const FileDescriptor*> visited_;
  int numbers_ = 0;
};

TEST_F(ProtoRangesTest, EveryNumberHasARange) {
  for (const Descriptor* root : {engine::TrainConfig::descriptor(), NativeManifest::descriptor(),
                                 DistributedManifest::descriptor(), HeldTensors::descriptor()}) {
    Visit(*root->file());
  }
  EXPECT_GT(numbers_, 80);
}

}  // namespace
}  // namespace waypoint
