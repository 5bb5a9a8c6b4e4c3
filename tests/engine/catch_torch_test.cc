#include "engine/catch_torch.h"

#include <stdexcept>

#include "gtest/gtest.h"

namespace waypoint::engine {
namespace {

TEST(CatchTorchTest, ReturnsWhatTheBodyReturns) {
  EXPECT_TRUE(CatchTorch("step", [] { return absl::OkStatus(); }).ok());
  EXPECT_EQ(CatchTorch("step", [] { return absl::NotFoundError("x"); }), absl::NotFoundError("x"));
}

TEST(CatchTorchTest, ExceptionsBecomeErrorsThatSayWhere) {
  EXPECT_EQ(CatchTorch("step 3", []() -> absl::Status { throw std::runtime_error("bad shape"); }),
            absl::InternalError("step 3: bad shape"));
  EXPECT_EQ(CatchTorch("step 3", []() -> absl::Status { throw std::bad_alloc(); }),
            absl::ResourceExhaustedError("step 3: out of memory"));
}

}  // namespace
}  // namespace waypoint::engine
