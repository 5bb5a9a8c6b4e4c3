#include "checkpoint/base/visible_text.h"

#include "checkpoint/base/error.h"
#include "checkpoint/base/list_error.h"
#include "gtest/gtest.h"

namespace waypoint {
namespace {

TEST(VisibleTextTest, WhatATerminalShowsStaysAsItIs) {
  EXPECT_EQ(VisibleText("layers.0.weight \"\\x\" ~ \xC3\xA4 \xE6\xBC\xA2 \xF0\x9F\x98\x80"),
            "layers.0.weight \"\\x\" ~ \xC3\xA4 \xE6\xBC\xA2 \xF0\x9F\x98\x80");
}

TEST(VisibleTextTest, ControlsOfBothSetsAreEscaped) {
  EXPECT_EQ(VisibleText(absl::string_view("a\0\a\b\t\n\r\x1B[2J\x7F", 12)),
            "a\\u0000\\u0007\\b\\t\\n\\r\\u001b[2J\\u007f");
  EXPECT_EQ(VisibleText("\xC2\x9B"
                        "31m"),
            "\\u009b31m");
}

TEST(VisibleTextTest, MarksOfDirectionAndWhatHasNoWidthAreEscaped) {
  EXPECT_EQ(VisibleText("\u202A\u202E\u2066\u2069\u200E\u200F\u061C\u2028\u2029\u200B\u2060\uFEFF\u00AD"),
            "\\u202a\\u202e\\u2066\\u2069\\u200e\\u200f\\u061c\\u2028\\u2029\\u200b\\u2060\\ufeff\\u00ad");
  EXPECT_EQ(VisibleText("\U000E0041"), "\\udb40\\udc41");
}

TEST(VisibleTextTest, BytesThatAreNoUtf8AreEscaped) {
  EXPECT_EQ(VisibleText("a\x9B"
                        "b"),
            "a\\x9bb");
  EXPECT_EQ(VisibleText("\xC0\x9B \xE2\x80 \xED\xA0\x80 \xF4\x90\x80\x80 \xFF"),
            "\\xc0\\x9b \\xe2\\x80 \\xed\\xa0\\x80 \\xf4\\x90\\x80\\x80 \\xff");
}

TEST(VisibleTextTest, WhatWentThroughOnceStays) {
  const std::string once = VisibleText("a\n\x1B\u202E\xFF");
  EXPECT_EQ(VisibleText(once), once);
}

TEST(VisibleTextTest, NewLinesStayAsFarAsTheyAreAskedFor) {
  EXPECT_EQ(VisibleText("a\nb\n  c"), "a\\nb\\n  c");
  EXPECT_EQ(VisibleText("a\nb\n  c", NewLines::kIndented), "a\\nb\n  c");
  EXPECT_EQ(VisibleText("a\nb\n  c\r", NewLines::kKept), "a\nb\n  c\\r");
}

TEST(ErrorTest, NoNameInAMessageIsObeyedOrBeginsALine) {
  const absl::Status status = MakeError(ErrorKind::kExtra, "tensor \"a\x1B[2J\n  error: none\u202E\"");
  EXPECT_EQ(status.message(), "tensor \"a\\u001b[2J\\n  error: none\\u202e\"");
  EXPECT_EQ(Annotate(status, "\"dir\n\"").message(), "\"dir\\n\": tensor \"a\\u001b[2J\\n  error: none\\u202e\"");
  EXPECT_EQ(ErrnoError(2, "open of \"a\rb\"").message(), "open of \"a\\rb\" failed: No such file or directory");
}

TEST(ErrorTest, ListsHaveALineForEach) {
  const absl::Status list = MakeListError(ErrorKind::kRequest, "2 problems\x1B:", {"a\nb", "c"}, "mend\nthem");
  EXPECT_EQ(list.message(), "2 problems\\u001b:\n  a\\nb\n  c\n  mend\\nthem");
  EXPECT_EQ(Annotate(list, "config").message(), "config: 2 problems\\u001b:\n  a\\nb\n  c\n  mend\\nthem");
  EXPECT_EQ(MakeListError(ErrorKind::kRequest, "none", {}).message(), "none");
}

TEST(ErrorTest, WhatOtherRanksSayKeepsItsLists) {
  const absl::Status list = MakeListError(ErrorKind::kRequest, "2 problems:", {"a", "b"});
  const absl::Status shared = RankError("rank 1 failed", ErrorText(list));
  EXPECT_EQ(shared.message(), "rank 1 failed: E_REQUEST: 2 problems:\n  a\n  b");
  EXPECT_EQ(GetCause(shared), ErrorKind::kRequest);
  EXPECT_EQ(RankError("rank 1", "E_IO: a\nerror: none").message(), "rank 1: E_IO: a\\nerror: none");
}

}  // namespace
}  // namespace waypoint
