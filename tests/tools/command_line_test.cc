#include "tools/command_line.h"

#include <cstdlib>
#include <sstream>

#include "checkpoint/base/error.h"
#include "checkpoint/base/list_error.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace waypoint {
namespace {

TEST(ParseBytesTest, DecimalAndBinaryUnits) {
  EXPECT_EQ(*ParseBytes("5000000"), 5'000'000);
  EXPECT_EQ(*ParseBytes("5GB"), 5'000'000'000);
  EXPECT_EQ(*ParseBytes("256MiB"), int64_t{256} << 20);
  EXPECT_EQ(*ParseBytes(" 1.5 gb "), 1'500'000'000);
  EXPECT_EQ(*ParseBytes("2k"), 2000);
  EXPECT_EQ(*ParseBytes("3 TiB"), int64_t{3} << 40);
  EXPECT_EQ(*ParseBytes("7B"), 7);
}

TEST(ParseBytesTest, EverythingElseIsAWrongRequest) {
  for (const char* text :
       {"", "0", "-1", "GB", "inf", "nan", "1e9", "0x10", "1..5GB", "5GBs", "99999999999TB", "0.1"}) {
    const absl::StatusOr<int64_t> bytes = ParseBytes(text);
    ASSERT_FALSE(bytes.ok()) << text;
    EXPECT_EQ(GetErrorKind(bytes.status()), ErrorKind::kRequest) << text;
  }
}

TEST(ParseBytesTest, ASmallNumberWithoutAUnitAsksBack) {
  for (const char* text : {"5", "4096", "999999", " 5 "}) {
    const absl::StatusOr<int64_t> bytes = ParseBytes(text);
    ASSERT_FALSE(bytes.ok()) << text;
    EXPECT_EQ(GetErrorKind(bytes.status()), ErrorKind::kRequest) << text;
  }
  EXPECT_EQ(ParseBytes("5").status().message(),
            "\"5\" has no unit: 5GB or 5B? write which (B, KB, MB, GB, KiB, MiB, GiB)");
  EXPECT_EQ(*ParseBytes("5B"), 5);
  EXPECT_EQ(*ParseBytes("5 b"), 5);
}

TEST(ParseWeightsDTypeTest, TakesWordsAndNamesThem) {
  EXPECT_EQ(*ParseWeightsDType("bf16"), DType::kBF16);
  EXPECT_EQ(*ParseWeightsDType("half"), DType::kF16);
  const absl::Status status = ParseWeightsDType("int8").status();
  EXPECT_EQ(GetErrorKind(status), ErrorKind::kRequest);
  EXPECT_EQ(status.message(),
            "\"int8\" is no type of weights; choose from bfloat16 (bf16), float16 (fp16, half), float32 (fp32, float)");
}

TEST(ResolvePathTest, RelativePathsBelongToTheCaller) {
  setenv("BUILD_WORKING_DIRECTORY", "/home/me", 1);
  EXPECT_EQ(ResolvePath("models/a/"), "/home/me/models/a");
  EXPECT_EQ(ResolvePath("/data/a"), "/data/a");
  EXPECT_EQ(ResolvePath("/"), "/");
  unsetenv("BUILD_WORKING_DIRECTORY");
  EXPECT_EQ(ResolvePath("models/a//"), "models/a");
}

TEST(HumanTest, ThreeDigitsAndAUnit) {
  EXPECT_EQ(HumanBytes(999), "999 B");
  EXPECT_EQ(HumanBytes(2.5e9), "2.50 GB");
  EXPECT_EQ(HumanBytes(354'700), "355 kB");
  EXPECT_EQ(HumanMemory(int64_t{256} << 20), "256 MiB");
  EXPECT_EQ(HumanDuration(absl::Milliseconds(420)), "0.42 s");
  EXPECT_EQ(HumanDuration(absl::Seconds(187)), "3:07");
  EXPECT_EQ(HumanDuration(absl::Seconds(7387)), "2:03:07");
  EXPECT_EQ(Count(1, "tensor"), "1 tensor");
  EXPECT_EQ(Count(0, "tensor"), "0 tensors");
}

TEST(ReportErrorTest, PrintsTheKindAndReturnsTheExitCode) {
  std::ostringstream out, err;
  EXPECT_EQ(ReportError(MakeError(ErrorKind::kTruncated, "\"a\": short"), false, out, err), 3);
  EXPECT_EQ(err.str(), "error: E_TRUNCATED: \"a\": short\n");
  EXPECT_EQ(out.str(), "");
}

TEST(ReportErrorTest, JsonIsValidWhateverTheMessageQuotes) {
  std::ostringstream out, err;
  ReportError(MakeError(ErrorKind::kUtf8, "name \"\xff\xfe\""), true, out, err);
  const nlohmann::json report = nlohmann::json::parse(out.str());
  EXPECT_EQ(report["error"]["kind"], "E_UTF8");
  EXPECT_EQ(report["error"]["exit_code"], 3);
}

TEST(ReportErrorTest, NothingOfAMessageIsObeyedOrBeginsALine) {
  std::ostringstream out, err;
  ReportError(absl::InternalError("\"a\x1B[2J\n  error: none\u202E\""), true, out, err);
  EXPECT_EQ(err.str(), "error: E_UNKNOWN: \"a\\u001b[2J\\n  error: none\\u202e\"\n");
  EXPECT_EQ(nlohmann::json::parse(out.str())["error"]["message"], "\"a\\u001b[2J\\n  error: none\\u202e\"");
}

TEST(ReportErrorTest, ListsStayLists) {
  std::ostringstream out, err;
  ReportError(MakeListError(ErrorKind::kConfig, "2 problems:", {"a", "b"}), false, out, err);
  EXPECT_EQ(err.str(), "error: E_CONFIG: 2 problems:\n  a\n  b\n");
}

TEST(ProgressLineTest, ShowsRateAndTimeLeft) {
  EXPECT_EQ(ProgressLine("converting", 500'000'000, 2'500'000'000, absl::Seconds(1)),
            "converting  20% of 2.50 GB, 500 MB/s, 4.00 s left");
}

TEST(ProgressPrinterTest, PrintsNothingWhenNobodyLooks) {
  std::ostringstream err;
  {
    ProgressPrinter printer("converting", false, err);
    printer.Update(1, 2);
  }
  EXPECT_EQ(err.str(), "");
}

}  // namespace
}  // namespace waypoint
