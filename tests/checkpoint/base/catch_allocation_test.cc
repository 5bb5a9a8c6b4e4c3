#include "checkpoint/base/catch_allocation.h"

#include <stdexcept>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/base/aligned_buffer.h"
#include "checkpoint/base/digest.h"
#include "checkpoint/base/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/failing_malloc.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// More than an address space has.
constexpr size_t kTooMuch = size_t{1} << 60;

TEST(CatchAllocationTest, GivesBackWhatTheBodyReturns) {
  EXPECT_OK(CatchAllocation("x", "", [] { return absl::OkStatus(); }));
  EXPECT_EQ(CatchAllocation("x", "", [] { return absl::StatusOr<int>(3); }).value(), 3);
  EXPECT_EQ(CatchAllocation("x", "", [] { return absl::NotFoundError("y"); }), absl::NotFoundError("y"));
}

TEST(CatchAllocationTest, SaysWhatWasWantedForWhatAndWhatToDo) {
  EXPECT_THAT(CatchAllocation("blocks", "lower --max-memory",
                              []() -> absl::Status {
                                AlignedBuffer buffer(kTooMuch);
                                return absl::OkStatus();
                              }),
              IsKind(ErrorKind::kNoMemory,
                     AllOf(HasSubstr("blocks"), HasSubstr(absl::StrCat(kTooMuch)), HasSubstr("lower --max-memory"))));
  EXPECT_THAT(
      CatchAllocation("names", "use fewer", []() -> absl::StatusOr<std::string> { return std::string(kTooMuch, 'x'); })
          .status(),
      IsKind(ErrorKind::kNoMemory, HasSubstr("no memory for names; use fewer")));
  // A length that no vector may have.
  EXPECT_THAT(CatchAllocation("names", "",
                              []() -> absl::Status {
                                std::vector<std::string>().reserve(kTooMuch);
                                return absl::OkStatus();
                              }),
              IsKind(ErrorKind::kNoMemory));
}

TEST(CatchAllocationTest, OtherExceptionsPass) {
  EXPECT_THROW(CatchAllocation("x", "", []() -> absl::Status { throw std::runtime_error("bad shape"); }).IgnoreError(),
               std::runtime_error);
}

TEST(CatchAllocationTest, WithoutMemoryForItsWordsItIsStillAnError) {
  if (!FailingMalloc::available) {
    GTEST_SKIP() << "the sanitizer has a malloc of its own";
  }
  absl::Status status;
  FailingMalloc failing(FailingMalloc::kFromThen, 0);
  status = CatchAllocation("something with a name that is not short", "do something about it that is as long", [] {
    std::string text(100, 'x');
    return absl::InternalError(text);
  });
  failing.Stop();

  EXPECT_THAT(status, IsKind(ErrorKind::kNoMemory));
}

TEST(CatchAllocationTest, DigestsThatCannotBeMadeAreErrorsToo) {
  if (!FailingMalloc::available) {
    GTEST_SKIP() << "the sanitizer has a malloc of its own";
  }
  const auto digest = []() -> absl::StatusOr<std::string> {
    Sha256 sha;
    sha.Update("abc");
    Xxh3Stream xxh;
    xxh.Update("abc");
    return absl::StrCat(sha.Hex(), DigestHex(xxh.Digest()));
  };
  const std::string right = digest().value();
  bool fired = true;
  int errors = 0;
  for (int64_t n = 0; fired; ++n) {
    FailingMalloc failing(FailingMalloc::kOnce, n);
    const absl::StatusOr<std::string> made = CatchAllocation("digests", "", digest);
    fired = failing.Stop();
    if (made.ok()) {
      EXPECT_EQ(*made, right);
    } else {
      EXPECT_THAT(made.status(), IsKind(ErrorKind::kNoMemory));
      ++errors;
    }
  }
  EXPECT_GT(errors, 4);
}

}  // namespace
}  // namespace waypoint
