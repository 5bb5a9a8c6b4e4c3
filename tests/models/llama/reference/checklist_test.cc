#include "models/llama/reference/checklist.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "checkpoint/base/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"

namespace waypoint::models {
namespace {

using ::testing::HasSubstr;

constexpr char kDigits[] = "d09d99687b44900324631336d4e22361";
constexpr char kCapitals[] = "D09D99687B44900324631336D4E22361";

TEST(ChecklistTest, LinesOfAllKindsAreRead) {
  for (const std::string& line :
       {absl::StrCat(kDigits, "  params.json"), absl::StrCat(kDigits, " *params.json"),
        absl::StrCat(kDigits, "  ./params.json"), absl::StrCat(kDigits, "  7B/params.json"),
        absl::StrCat(kDigits, "\tparams.json\r"), absl::StrCat(kCapitals, "  params.json"),
        absl::StrCat("MD5 (params.json) = ", kDigits), absl::StrCat("# made by md5sum\n\n", kDigits, "  params.json\n"),
        absl::StrCat(kDigits, "  params.json\n", kDigits, "  params.json\n")}) {
    ASSERT_OK_AND_ASSIGN(const auto entries, ParseChecklist(line, "checklist.chk"));
    ASSERT_EQ(entries.size(), 1u) << line;
    EXPECT_EQ(entries[0].name, "params.json") << line;
    EXPECT_EQ(entries[0].md5, kDigits) << line;
  }
}

TEST(ChecklistTest, WhatIsNoListIsRefused) {
  for (const std::string& text : {std::string("md5"), std::string(kDigits), absl::StrCat(kDigits, "0  params.json"),
                                  absl::StrCat("MD5 (params.json)", kDigits)}) {
    EXPECT_THAT(ParseChecklist(text, "checklist.chk"), IsKind(ErrorKind::kSchema, HasSubstr("line 1"))) << text;
  }
  EXPECT_THAT(ParseChecklist("<!DOCTYPE html>", "checklist.chk"), IsKind(ErrorKind::kHeader, HasSubstr("web page")));
  EXPECT_THAT(ParseChecklist(absl::StrCat(kDigits, "  a\n", std::string(32, '0'), "  a"), "checklist.chk"),
              IsKind(ErrorKind::kDupKey, HasSubstr("\"a\"")));
}

}  // namespace
}  // namespace waypoint::models
