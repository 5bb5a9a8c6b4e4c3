#include "engine/catch_torch.h"

#include <stdexcept>

#include "ATen/ops/empty.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"

namespace waypoint::engine {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(CatchTorchTest, ReturnsWhatTheBodyReturns) {
  EXPECT_TRUE(CatchTorch("step", [] { return absl::OkStatus(); }).ok());
  EXPECT_EQ(CatchTorch("step", [] { return absl::NotFoundError("x"); }), absl::NotFoundError("x"));
}

TEST(CatchTorchTest, ExceptionsBecomeErrorsThatSayWhere) {
  EXPECT_EQ(CatchTorch("step 3", []() -> absl::Status { throw std::runtime_error("bad shape"); }),
            absl::InternalError("step 3: bad shape"));
}

TEST(CatchTorchTest, WhateverSaysThatMemoryRanOutIsNoMemory) {
  EXPECT_THAT(CatchTorch("step 3", []() -> absl::Status { throw std::bad_alloc(); }),
              IsKind(ErrorKind::kNoMemory, AllOf(HasSubstr("no memory for step 3;"), HasSubstr("data.batch_size"))));
  // 128 TiB, asked of libtorch itself.
  EXPECT_THAT(CatchTorch("step 3",
                         []() -> absl::Status {
                           at::empty({int64_t{1} << 45}, at::kByte);
                           return absl::OkStatus();
                         }),
              IsKind(ErrorKind::kNoMemory, HasSubstr("(35184372088832 bytes)")));
}

}  // namespace
}  // namespace waypoint::engine
