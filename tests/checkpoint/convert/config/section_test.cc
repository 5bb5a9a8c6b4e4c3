#include "checkpoint/convert/config/section.h"

#include "checkpoint/convert/config/primitives.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/checkpoint/convert/config/test_config.pb.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::Pair;
using testing::Recursive;
using testing::Unmarked;

std::string BuildMessage(const SectionBuilder& builder) { return std::string(builder.Build().status().message()); }

TEST(SectionTest, FieldsWithoutTheArchitectureOptionAreRefused) {
  SectionBuilder builder(*Unmarked::descriptor());
  builder.Add("marked", Rename("marked", "m")).Add("inner", Rename("inner.forgotten", "f"));

  EXPECT_EQ(builder.Build().status().code(), absl::StatusCode::kInternal);
  EXPECT_THAT(BuildMessage(builder), AllOf(HasSubstr("lacks the option (waypoint.architecture)"),
                                           HasSubstr("Unmarked.Inner.forgotten"), Not(HasSubstr("Unmarked.marked"))));
}

TEST(SectionTest, UnclaimedFieldsAreListed) {
  EXPECT_THAT(BuildMessage(SectionBuilder(*Pair::descriptor())),
              HasSubstr("2 fields are claimed by no declaration: first, second"));
}

TEST(SectionTest, AFieldThatIsClaimedTwiceNamesBothDeclarations) {
  SectionBuilder builder(*Pair::descriptor());
  builder.Add("a", Rename("first", "f")).Add("b", Default("first", "g", 1)).Add("c", Rename("second", "s"));

  EXPECT_THAT(BuildMessage(builder), HasSubstr("\"first\" is claimed by \"a\" and \"b\""));
}

TEST(SectionTest, WrongPathsAreNamed) {
  SectionBuilder builder(*Pair::descriptor());
  builder.Add("a", Rename("first", "f")).Add("b", Rename("second", "s")).Add("c", Rename("third", "t"));

  EXPECT_THAT(BuildMessage(builder), HasSubstr("has no field \"third\""));
}

TEST(SectionTest, MapsRecursionAndEmptyMessagesNeedARecursiveClaim) {
  SectionBuilder builder(*Recursive::descriptor());
  builder.Add("size", Rename("size", "s"));
  EXPECT_THAT(BuildMessage(builder), HasSubstr("inner (needs a recursive claim), leaves (needs a recursive claim), "
                                               "nothing (needs a recursive claim)"));

  builder.Add("rest", Ignored({{"inner"}, {"leaves"}, {"nothing"}}, {}, "for this test"));

  EXPECT_OK(builder.Build());
}

TEST(SectionTest, ARecursiveClaimAndOneBelowItAreTwo) {
  SectionBuilder builder(*Unmarked::descriptor());
  builder.Add("inner", Ignored({{"inner"}}, {}, "for this test")).Add("below", Rename("inner.forgotten", "f"));

  EXPECT_THAT(BuildMessage(builder), HasSubstr("\"inner.forgotten\" is claimed by \"inner\" and \"below\""));
}

TEST(SectionTest, AFamilyDerivesByKey) {
  ASSERT_OK_AND_ASSIGN(const Section base, SectionBuilder(*Pair::descriptor())
                                               .Add("type", ConstantExport("type", "base"))
                                               .Add("first", Rename("first", "f"))
                                               .Add("second", Rename("second", "s"))
                                               .Build());

  ASSERT_OK_AND_ASSIGN(const Section derived,
                       SectionBuilder(base).Replace("first", Rename("first", "renamed")).Remove("type").Build());

  ASSERT_EQ(derived.declarations().size(), 2);
  EXPECT_EQ(derived.declarations()[0].key, "first");
  EXPECT_EQ(derived.declarations()[0].primitive->external_claims()[0], "renamed");
  EXPECT_EQ(derived.declarations()[1].primitive, base.declarations()[2].primitive);
  EXPECT_EQ(base.declarations()[1].primitive->external_claims()[0], "f");
}

TEST(SectionTest, MistakesInKeysAreReportedByBuild) {
  SectionBuilder builder(*Pair::descriptor());
  builder.Add("a", Rename("first", "f")).Add("a", Rename("second", "s"));
  builder.Replace("b", Rename("second", "s")).Remove("c");

  EXPECT_THAT(BuildMessage(builder), AllOf(HasSubstr("key \"a\" is added, but it is there"),
                                           HasSubstr("key \"b\" is replaced, but it is not there"),
                                           HasSubstr("key \"c\" is removed, but it is not there")));
}

TEST(SafeSetTest, DeclarationsThatShareAKeyMustAgree) {
  ASSERT_OK_AND_ASSIGN(const Section section, SectionBuilder(*Pair::descriptor())
                                                  .Add("first", Rename("first", "shared.key"))
                                                  .Add("second", Rename("second", "shared.key"))
                                                  .Build());
  Pair pair;
  pair.set_first(4);
  pair.set_second(4);
  ExportLog agree;
  section.Export(pair, ExportContext(nullptr, ExternalLayout::kTransformers4, &agree));
  EXPECT_OK(agree.problems.ToStatus("config"));

  pair.set_second(5);

  ExportLog collide;
  section.Export(pair, ExportContext(nullptr, ExternalLayout::kTransformers4, &collide));
  EXPECT_THAT(collide.problems.ToStatus("config"),
              IsKind(ErrorKind::kConfig, HasSubstr("\"shared.key\" would be 4 by \"first\" and 5 by \"second\"")));
}

}  // namespace
}  // namespace waypoint
