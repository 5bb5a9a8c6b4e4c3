#include "checkpoint/base/ranges.h"

#include <limits>

#include "checkpoint/format/metadata.pb.h"
#include "checkpoint/format/native/manifest.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "models/decoder/config.pb.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::string Problems(const google::protobuf::Message& message) {
  return std::string(CheckRanges(message, "it", ErrorKind::kSchema).message());
}

TEST(RangesTest, NumbersInTheirRangesAreFine) {
  CheckpointMetadata metadata;
  EXPECT_THAT(FindOutOfRange(metadata), IsEmpty());
  metadata.mutable_training()->set_step(5);
  metadata.mutable_training()->set_data_position(int64_t{1} << 53);
  EXPECT_THAT(FindOutOfRange(metadata), IsEmpty());
}

// Both made a resumed run look for its place without end.
TEST(RangesTest, ADataPositionThatIsNoneIsNamed) {
  for (const int64_t position : {int64_t{-1000}, std::numeric_limits<int64_t>::max()}) {
    CheckpointMetadata metadata;
    metadata.mutable_training()->set_data_position(position);
    EXPECT_THAT(CheckRanges(metadata, "\"a/manifest.pb\"", ErrorKind::kSchema),
                IsKind(ErrorKind::kSchema,
                       AllOf(HasSubstr("\"a/manifest.pb\": training.data_position is "),
                             HasSubstr(std::to_string(position)), HasSubstr("wanted 0 to 9007199254740992"))));
  }
}

TEST(RangesTest, PlacesInListsAndMapsAreSpelledOut) {
  NativeManifest manifest;
  manifest.add_tensors()->add_shape(3);
  manifest.add_tensors()->add_shape(4);
  manifest.mutable_tensors(1)->add_shape(-1);
  (*manifest.mutable_metadata()->mutable_training()->mutable_optimizer_scalars())["a.b"] =
      std::numeric_limits<double>::infinity();
  EXPECT_THAT(Problems(manifest), AllOf(HasSubstr("metadata.training.optimizer_scalars[\"a.b\"] is inf"),
                                        HasSubstr("tensors[1].shape[1] is -1")));
}

TEST(RangesTest, NaNIsInNoRangeButOfWhatNothingComputesWith) {
  TrainingState training;
  training.set_last_loss(std::numeric_limits<double>::quiet_NaN());
  (*training.mutable_metrics())["loss"] = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THAT(FindOutOfRange(training), IsEmpty());
  training.mutable_loss_scaler()->set_scale(std::numeric_limits<double>::quiet_NaN());
  EXPECT_THAT(Problems(training), HasSubstr("loss_scaler.scale is nan"));
}

TEST(RangesTest, ValuesOfNoEnumAndConfigsInAnyAreSeen) {
  models::DecoderConfig config;
  config.mutable_head()->mutable_normalization()->set_kind(static_cast<models::Normalization::Kind>(77));
  config.set_hidden_size(-5);
  CheckpointMetadata metadata;
  metadata.mutable_model_config()->PackFrom(config);
  EXPECT_THAT(Problems(metadata), AllOf(HasSubstr("model_config.hidden_size is -5"),
                                        HasSubstr("model_config.head.normalization.kind is 77, wanted a value of ")));

  metadata.mutable_model_config()->set_value("\x0f no message");
  EXPECT_THAT(Problems(metadata), HasSubstr("model_config is bytes that are none"));
}

TEST(RangesTest, AHostileMessageMakesNoMessageOfItsOwnSize) {
  NativeManifest manifest;
  for (int i = 0; i < 100000; ++i) {
    manifest.add_tensors()->set_begin(-1);
  }
  EXPECT_EQ(FindOutOfRange(manifest).size(), 10);
}

}  // namespace
}  // namespace waypoint
