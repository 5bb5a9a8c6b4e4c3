#include "tools/exit_codes.h"

#include "checkpoint/base/error.h"
#include "gtest/gtest.h"

namespace waypoint {
namespace {

TEST(ExitCodeForTest, EveryClassOfErrorHasItsNumber) {
  EXPECT_EQ(ExitCodeFor(absl::OkStatus()), 0);
  EXPECT_EQ(ExitCodeFor(absl::InternalError("bug")), 1);
  EXPECT_EQ(ExitCodeFor(MakeError(ErrorKind::kRequest, "flag")), 2);
  EXPECT_EQ(ExitCodeFor(MakeError(ErrorKind::kExists, "out")), 2);
  EXPECT_EQ(ExitCodeFor(MakeError(ErrorKind::kLocked, "out")), 2);
  EXPECT_EQ(ExitCodeFor(MakeError(ErrorKind::kVerify, "out")), 4);
  EXPECT_EQ(ExitCodeFor(MakeError(ErrorKind::kIo, "open")), 5);
  EXPECT_EQ(ExitCodeFor(MakeError(ErrorKind::kNoSpace, "write")), 5);
  EXPECT_EQ(ExitCodeFor(NoMemoryError(1 << 20, "a block", "lower --max-memory")), 5);
  EXPECT_EQ(ExitCodeFor(absl::CancelledError("signal")), 130);
}

TEST(ExitCodeForTest, EveryFlawOfAnInputIsThree) {
  for (const ErrorKind kind :
       {ErrorKind::kTruncated, ErrorKind::kHeader,       ErrorKind::kLimit,     ErrorKind::kUtf8,
        ErrorKind::kJson,      ErrorKind::kDupKey,       ErrorKind::kSchema,    ErrorKind::kDType,
        ErrorKind::kOffsets,   ErrorKind::kSizeMismatch, ErrorKind::kOverflow,  ErrorKind::kTrailing,
        ErrorKind::kZip,       ErrorKind::kChecksum,     ErrorKind::kPickle,    ErrorKind::kCode,
        ErrorKind::kStorage,   ErrorKind::kPath,         ErrorKind::kConfig,    ErrorKind::kMissing,
        ErrorKind::kExtra,     ErrorKind::kShape,        ErrorKind::kTokenizer, ErrorKind::kUnsupported,
        ErrorKind::kAmbiguous}) {
    EXPECT_EQ(ExitCodeFor(MakeError(kind, "input")), 3) << ErrorKindName(kind);
  }
}

TEST(ExitCodeForTest, ContextDoesNotChangeTheCode) {
  EXPECT_EQ(ExitCodeFor(Annotate(MakeError(ErrorKind::kVerify, "digest"), "out/model")), 4);
}

}  // namespace
}  // namespace waypoint
