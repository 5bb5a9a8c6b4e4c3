#include "checkpoint/convert/config/json_path.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace waypoint {
namespace {

TEST(JsonPathTest, FindTellsNullFromAbsent) {
  const Json document = Json::parse(R"({"a": {"b": null}})");

  ASSERT_NE(FindJson(document, {"a", "b"}), nullptr);
  EXPECT_TRUE(FindJson(document, {"a", "b"})->is_null());
  EXPECT_EQ(FindJson(document, {"a", "c"}), nullptr);
  EXPECT_EQ(FindJson(document, {"a", "b", "c"}), nullptr);
}

TEST(JsonPathTest, SetMakesObjectsOnTheWayAndInPlaceOfNull) {
  Json document = Json::parse(R"({"a": null, "z": 1})");

  EXPECT_TRUE(SetJson({"a", "b", "c"}, 2, &document));

  EXPECT_EQ(document.dump(), R"({"a":{"b":{"c":2}},"z":1})");
}

TEST(JsonPathTest, SetRefusesToReplaceAValueByAnObject) {
  Json document = Json::parse(R"({"a": 1})");

  EXPECT_FALSE(SetJson({"a", "b"}, 2, &document));
}

TEST(JsonPathTest, EraseRemovesObjectsThatBecomeEmpty) {
  Json document = Json::parse(R"({"a": {"b": {"c": 1}}, "d": {"e": 1, "f": 2}})");

  EraseJson({"a", "b", "c"}, &document);
  EraseJson({"d", "e"}, &document);
  EraseJson({"no", "such"}, &document);

  EXPECT_EQ(document.dump(), R"({"d":{"f":2}})");
}

TEST(JsonPathTest, AnUnknownObjectIsOnePlace) {
  const Json document = Json::parse(R"({"known": {"x": 1, "y": {"z": 2}}, "new": {"p": 1, "q": 2}})");

  const auto found = UnclaimedJson(document, {{"known", "x"}}, {});

  ASSERT_EQ(found.size(), 2);
  EXPECT_EQ(JsonPathText(found[0].first), "known.y");
  EXPECT_EQ(JsonPathText(found[1].first), "new");
}

TEST(JsonPathTest, AKeyWithADotIsNoPath) {
  const Json document = Json::parse(R"({"a.b": 1, "a": {"b": 2}})");

  const auto found = UnclaimedJson(document, {ParseJsonPath("a.b")}, {});

  ASSERT_EQ(found.size(), 1);
  EXPECT_EQ(*found[0].second, 1);
}

TEST(JsonPathTest, LongValuesAreCutForMessagesAndStayUtf8) {
  std::string text;
  for (int i = 0; i < 200; ++i) {
    text += "\xC3\xA9";
  }

  const std::string shown = JsonText(text);

  EXPECT_LT(shown.size(), 120);
  EXPECT_NO_THROW(Json(shown).dump());
}

}  // namespace
}  // namespace waypoint
