#include "checkpoint/convert/config/composite.h"

#include "checkpoint/convert/config/config_converter.h"
#include "checkpoint/convert/config/primitives.h"
#include "gmock/gmock.h"
#include "google/protobuf/util/message_differencer.h"
#include "gtest/gtest.h"
#include "tests/checkpoint/convert/config/test_config.pb.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {
namespace {

using ::testing::AllOf;
using testing::Choice;
using testing::Dictionary;
using ::testing::HasSubstr;
using testing::Holder;
using testing::Leaf;
using testing::OtherLeaf;

Section LeafSection() {
  return SectionBuilder(*Leaf::descriptor())
      .Add("size", Rename("size", "size"))
      .Add("rate", Default("rate", "rate", 0.5))
      .Build()
      .value();
}

Section OtherSection() {
  return SectionBuilder(*OtherLeaf::descriptor()).Add("width", Rename("width", "width")).Build().value();
}

Section ChoiceSection() {
  return SectionBuilder(*Choice::descriptor())
      .Add("outside", Default("outside", "outside", 1))
      .Add("kind", Dispatch("", *Choice::descriptor()->FindOneofByName("kind"), "", "type",
                            {{"leaf", "small", LeafSection()}, {"other", "large", OtherSection()}}))
      .Build()
      .value();
}

ConfigConverter HolderConverter(NestedOptions part_options = {}, const std::string& part = "part") {
  return ConfigConverter(SectionBuilder(*Holder::descriptor())
                             .Add("choice", Nested("choice", "choice", ChoiceSection()))
                             .Add("part", Nested("part", part, LeafSection(), part_options))
                             .Build()
                             .value(),
                         HarmlessKeys());
}

constexpr char kHolder[] =
    R"({"choice": {"outside": 3, "type": "large", "width": 7}, "part": {"size": 2, "rate": 0.25}})";

TEST(NestedTest, GoesBothWaysUnderAKey) {
  const Json document = Json::parse(kHolder);
  Holder holder;

  ASSERT_OK(HolderConverter().Import(document, {}, &holder));
  ASSERT_OK_AND_ASSIGN(const Json again, HolderConverter().Export(holder, nullptr, {}));

  EXPECT_EQ(holder.part().size(), 2);
  EXPECT_EQ(holder.choice().other().width(), 7);
  EXPECT_EQ(again, document);
}

TEST(NestedTest, GoesBothWaysFlat) {
  const Json document =
      Json::parse(R"({"choice": {"outside": 3, "type": "large", "width": 7}, "size": 2, "rate": 0.25})");
  Holder holder;

  ASSERT_OK(HolderConverter({}, "").Import(document, {}, &holder));
  ASSERT_OK_AND_ASSIGN(const Json again, HolderConverter({}, "").Export(holder, nullptr, {}));

  EXPECT_EQ(holder.part().size(), 2);
  EXPECT_EQ(again, document);
}

TEST(NestedTest, UnknownKeysInsideAreFoundByFullPath) {
  Holder holder;

  EXPECT_THAT(
      HolderConverter().Import(
          Json::parse(R"({"choice": {"type": "large", "width": 7, "new": [1]}, "part": {"size": 2, "odd": 1}})"), {},
          &holder),
      IsKind(ErrorKind::kConfig,
             AllOf(HasSubstr("2 unknown keys"), HasSubstr("\"choice.new\" = [1]"), HasSubstr("\"part.odd\" = 1"))));
}

TEST(NestedTest, MissingObjectsAndOtherValuesAreNamed) {
  Holder holder;

  EXPECT_THAT(HolderConverter().Import(Json::parse(R"({"choice": [], "part": null})"), {}, &holder),
              IsKind(ErrorKind::kConfig,
                     AllOf(HasSubstr("\"choice\" is [], wanted an object"), HasSubstr("\"part\" is missing"))));
}

TEST(NestedTest, OptionalPartsMayBeAbsent) {
  NestedOptions options;
  options.optional = true;
  const Json document = Json::parse(R"({"choice": {"outside": 1, "type": "large", "width": 7}})");
  Holder holder;

  ASSERT_OK(HolderConverter(options).Import(document, {}, &holder));
  ASSERT_OK_AND_ASSIGN(const Json again, HolderConverter(options).Export(holder, nullptr, {}));

  EXPECT_FALSE(holder.has_part());
  EXPECT_EQ(again, document);
}

TEST(NestedTest, TypeNameIsWrittenAndChecked) {
  NestedOptions options;
  options.type_name = "leaf";
  Holder holder;
  ASSERT_OK(HolderConverter(options).Import(Json::parse(kHolder), {}, &holder));

  ASSERT_OK_AND_ASSIGN(Json again, HolderConverter(options).Export(holder, nullptr, {}));
  EXPECT_EQ(again["part"]["type"], "leaf");

  again["part"]["type"] = "twig";
  Holder other;
  EXPECT_THAT(HolderConverter(options).Import(again, {}, &other),
              IsKind(ErrorKind::kConfig, HasSubstr("\"part.type\" is \"twig\", wanted \"leaf\"")));
}

TEST(DispatchTest, UnknownDiscriminatorNamesThePathAndTheCases) {
  Holder holder;

  EXPECT_THAT(HolderConverter().Import(Json::parse(R"({"choice": {"type": "huge", "width": 7}, "part": {"size": 2}})"),
                                       {}, &holder),
              IsKind(ErrorKind::kUnsupported,
                     AllOf(HasSubstr("\"choice.type\" is \"huge\""), HasSubstr("\"small\", \"large\""))));
}

TEST(DispatchTest, MissingDiscriminatorIsNamed) {
  Holder holder;

  EXPECT_THAT(HolderConverter().Import(Json::parse(R"({"choice": {"width": 7}, "part": {"size": 2}})"), {}, &holder),
              IsKind(ErrorKind::kConfig, HasSubstr("\"choice.type\" is missing")));
}

TEST(DispatchTest, MemberWithoutACaseCannotBeExported) {
  Holder holder;
  holder.mutable_choice()->mutable_third()->set_depth(1);
  holder.mutable_part();

  EXPECT_THAT(HolderConverter().Export(holder, nullptr, {}), IsKind(ErrorKind::kUnsupported, HasSubstr("\"third\"")));
}

TEST(TypedDictTest, EntriesOfSeveralKindsGoBothWays) {
  const ConfigConverter converter(SectionBuilder(*Dictionary::descriptor())
                                      .Add("entries", TypedDict("entries", "blocks", ChoiceSection()))
                                      .Build()
                                      .value(),
                                  HarmlessKeys());
  const Json document = Json::parse(R"({"blocks": {
      "a.b": {"outside": 1, "type": "small", "size": 2, "rate": 1.0},
      "b": {"outside": 2, "type": "large", "width": 3}}})");
  Dictionary dictionary;

  ASSERT_OK(converter.Import(document, {}, &dictionary));
  ASSERT_OK_AND_ASSIGN(const Json again, converter.Export(dictionary, nullptr, {}));

  EXPECT_EQ(dictionary.entries().at("a.b").leaf().size(), 2);
  EXPECT_EQ(dictionary.entries().at("b").other().width(), 3);
  EXPECT_EQ(again, document);
}

TEST(TypedDictTest, ProblemsNameTheEntry) {
  const ConfigConverter converter(SectionBuilder(*Dictionary::descriptor())
                                      .Add("entries", TypedDict("entries", "blocks", ChoiceSection()))
                                      .Build()
                                      .value(),
                                  HarmlessKeys());
  Dictionary dictionary;

  EXPECT_THAT(
      converter.Import(Json::parse(R"({"blocks": {"x": 1, "y": {"type": "large", "width": "wide"}}})"), {},
                       &dictionary),
      IsKind(ErrorKind::kConfig, AllOf(HasSubstr("\"blocks.x\" is 1"), HasSubstr("\"blocks.y.width\" is \"wide\""))));
}

}  // namespace
}  // namespace waypoint
