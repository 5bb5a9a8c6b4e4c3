#include "checkpoint/format/strip_prefix.h"

#include <string>
#include <vector>

#include "checkpoint/base/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

absl::Status Strip(const std::vector<std::string>& prefixes, std::vector<std::string>* names) {
  std::vector<std::string*> pointers;
  for (std::string& name : *names) {
    pointers.push_back(&name);
  }
  PrefixStripper stripper(prefixes);
  const absl::Status status = stripper.Apply(pointers);
  return status.ok() ? stripper.Finish() : status;
}

TEST(StripPrefixTest, EachIsTakenOffOnceInTurn) {
  std::vector<std::string> names = {"module._orig_mod.model.norm.weight", "module.lm_head.weight", "step",
                                    "module.module.a"};
  ASSERT_OK(Strip({"module.", "_orig_mod."}, &names));
  EXPECT_THAT(names, ElementsAre("model.norm.weight", "lm_head.weight", "step", "module.a"));
}

TEST(StripPrefixTest, APrefixThatNothingHasIsRefused) {
  std::vector<std::string> names = {"model.a", "model.b"};
  EXPECT_THAT(Strip({"module."}, &names),
              IsKind(ErrorKind::kRequest, AllOf(HasSubstr("\"module.\""), HasSubstr("\"model.a\""))));
  EXPECT_THAT(Strip({""}, &names), IsKind(ErrorKind::kRequest, HasSubstr("empty")));
}

TEST(StripPrefixTest, NamesThatBecomeOneAreRefused) {
  std::vector<std::string> names = {"module.a", "a"};
  EXPECT_THAT(Strip({"module."}, &names),
              IsKind(ErrorKind::kRequest, AllOf(HasSubstr("\"module.a\""), HasSubstr("both \"a\""))));
  names = {"module."};
  EXPECT_THAT(Strip({"module."}, &names), IsKind(ErrorKind::kRequest, HasSubstr("nothing is left")));
}

TEST(StripPrefixTest, FormatsOfOursRefuseIt) {
  EXPECT_OK(RefuseStripPrefixes({}, "native"));
  EXPECT_THAT(RefuseStripPrefixes({"module."}, "native"), IsKind(ErrorKind::kRequest, HasSubstr("\"native\"")));
}

TEST(StripRemedyTest, NamesThePrefixThatMostNamesHave) {
  EXPECT_THAT(StripRemedy({"a.w", "b.w"}, {"module.a.w", "module.b.w", "x.a.w"}),
              AllOf(HasSubstr("2 names fit"), HasSubstr("--strip-prefix \"module.\"")));
  EXPECT_THAT(StripRemedy({"model.norm.weight"}, {"model.model.norm.weight"}), HasSubstr("--strip-prefix \"model.\""));
  EXPECT_THAT(StripRemedy({"a.w"}, {"a.w", "b.w"}), IsEmpty());
}

TEST(StripRemedyTest, IsForNamesThatDoNotFitAlone) {
  EXPECT_THAT(WithRemedy(MakeError(ErrorKind::kMissing, "x"), "; y"), IsKind(ErrorKind::kMissing, HasSubstr("x; y")));
  EXPECT_THAT(WithRemedy(MakeError(ErrorKind::kShape, "x"), "; y").message(), "x");
}

}  // namespace
}  // namespace waypoint
