#include "engine/device.h"

#include <cstdlib>

#include "ATen/Context.h"
#include "absl/strings/match.h"
#include "checkpoint/base/error.h"
#include "checkpoint/coordination/c10d/process_group.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"

namespace waypoint::engine {
namespace {

using ::testing::HasSubstr;

TEST(DeviceTest, TheCpuIsAlwaysThere) {
  ASSERT_OK_AND_ASSIGN(const c10::Device device, DeviceOf("cpu", 8));
  EXPECT_TRUE(device.is_cpu());
}

TEST(DeviceTest, OthersAreRefusedByName) {
  EXPECT_THAT(DeviceOf("tpu", 1), IsKind(ErrorKind::kRequest, HasSubstr("\"tpu\", must be cpu or cuda")));
}

// With a GPU it is the one of LOCAL_RANK; without, the message says what is missing.
TEST(DeviceTest, CudaIsThereOrItIsSaidWhatIsMissing) {
  if (!at::globalContext().hasCUDA()) {
    EXPECT_THAT(DeviceOf("cuda", 1), IsKind(ErrorKind::kUnsupported, HasSubstr("has no CUDA, or sees no GPU")));
    return;
  }
  ASSERT_OK_AND_ASSIGN(const c10::Device device, DeviceOf("cuda", 1));
  EXPECT_EQ(device, c10::Device(c10::kCUDA, 0));
  setenv("LOCAL_RANK", "1000", 1);
  const auto far = DeviceOf("cuda", 1);
  EXPECT_TRUE(far.ok() ? far->index() == 0 : absl::StrContains(far.status().message(), "LOCAL_RANK is 1000"));
  unsetenv("LOCAL_RANK");
  if (!HasNccl()) {
    EXPECT_THAT(DeviceOf("cuda", 2), IsKind(ErrorKind::kUnsupported, HasSubstr("NCCL")));
  }
}

}  // namespace
}  // namespace waypoint::engine
