#include "checkpoint/convert/config/config_converter.h"

#include "checkpoint/convert/config/primitives.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/checkpoint/convert/config/test_config.pb.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::Pair;

absl::StatusOr<Json> DoubleOfFirst(const google::protobuf::Message& message) {
  return Json(2 * static_cast<const Pair&>(message).first());
}

// first <-> "a.f", second <-> "s", which is twice the first by default.
ConfigConverter PairConverter() {
  static constexpr HarmlessKey kKeys[] = {{"token", nullptr, "for this test"}, {"pruned", "{}", "for this test"}};
  return ConfigConverter(SectionBuilder(*Pair::descriptor())
                             .Add("type", ConstantExport("type", "pair"))
                             .Add("first", Rename("first", "a.f"))
                             .Add("second", Default("second", "s", DoubleOfFirst))
                             .Build()
                             .value(),
                         HarmlessKeys().Add("", kKeys).Add("a", absl::MakeConstSpan(kKeys, 1)));
}

absl::StatusOr<ImportReport> Import(const char* document, bool carry_unknown = false) {
  Pair pair;
  ConfigImportOptions options;
  options.carry_unknown = carry_unknown;
  return PairConverter().Import(Json::parse(document), options, &pair);
}

std::string ExportWith(int64_t first, int64_t second, const char* original) {
  Pair pair;
  pair.set_first(first);
  pair.set_second(second);
  const Json json = Json::parse(original);
  const absl::StatusOr<Json> result = PairConverter().Export(pair, &json, {});
  return result.ok() ? result->dump() : std::string(result.status().message());
}

TEST(ConfigImportTest, AllUnknownKeysComeInOneError) {
  EXPECT_THAT(Import(R"({"a": {"f": 1, "g": 2}, "new": {"x": [1, 2]}, "odd": true})"),
              IsKind(ErrorKind::kConfig, AllOf(HasSubstr("3 unknown keys"), HasSubstr("--carry-unknown"),
                                               HasSubstr("\"a.g\" = 2, \"new\" = {\"x\":[1,2]}, \"odd\" = true"))));
}

TEST(ConfigImportTest, UnknownKeysAndOtherProblemsComeTogether) {
  EXPECT_THAT(Import(R"({"type": "triple", "a": {"f": "x"}, "odd": 1})"),
              IsKind(ErrorKind::kConfig, AllOf(HasSubstr("3 problems"), HasSubstr("\"type\" is \"triple\""),
                                               HasSubstr("\"a.f\" is \"x\""), HasSubstr("\"odd\" = 1"))));
}

TEST(ConfigImportTest, UnknownKeysAreCarriedOnRequestAndNoted) {
  ASSERT_OK_AND_ASSIGN(const ImportReport report, Import(R"({"a": {"f": 1}, "new": 5})", true));

  ASSERT_EQ(report.carried.size(), 1);
  EXPECT_THAT(report.carried[0].path, ElementsAre("new"));
  EXPECT_TRUE(report.carried[0].unknown());
  EXPECT_THAT(report.notes, ElementsAre(HasSubstr("\"new\" = 5")));
}

TEST(ConfigImportTest, HarmlessKeysAreCarriedByFullPath) {
  ASSERT_OK_AND_ASSIGN(const ImportReport report,
                       Import(R"({"a": {"f": 1, "token": 2}, "token": {"x": 1}, "pruned": {}})"));
  std::vector<std::string> carried;
  for (const CarriedKey& key : report.carried) {
    carried.push_back(JsonPathText(key.path));
    EXPECT_FALSE(key.unknown()) << carried.back();
  }
  EXPECT_THAT(carried, ElementsAre("a.token", "token", "pruned"));
  EXPECT_TRUE(report.notes.empty());

  // The same name elsewhere is another key.
  EXPECT_THAT(Import(R"({"a": {"f": 1, "pruned": {}}})"), IsKind(ErrorKind::kConfig, HasSubstr("\"a.pruned\"")));
}

TEST(ConfigImportTest, HarmlessKeysWithAnotherValueAreRefusedEvenWhenCarrying) {
  EXPECT_THAT(Import(R"({"a": {"f": 1}, "pruned": {"0": [1]}})", true),
              IsKind(ErrorKind::kUnsupported, HasSubstr("\"pruned\" is {\"0\":[1]}, supported is {}")));
}

TEST(ConfigImportTest, NullSaysNothing) {
  ASSERT_OK_AND_ASSIGN(const ImportReport report, Import(R"({"a": {"f": 1}, "s": null, "type": null, "new": null})"));

  EXPECT_TRUE(report.notes.empty());
}

TEST(ConfigImportTest, OnlyObjectsAreConfigs) {
  EXPECT_THAT(Import("[]"), IsKind(ErrorKind::kSchema));
  EXPECT_THAT(Import("null"), IsKind(ErrorKind::kSchema));
}

TEST(ConfigImportTest, ManyUnknownKeysMakeNoEndlessMessage) {
  Json document = Json::parse(R"({"a": {"f": 1}})");
  for (int i = 0; i < 5000; ++i) {
    document["key" + std::to_string(i)] = std::string(1000, 'x');
  }
  Pair pair;

  const absl::Status status = PairConverter().Import(document, {}, &pair).status();

  EXPECT_THAT(status, IsKind(ErrorKind::kConfig, HasSubstr("5000 unknown keys")));
  EXPECT_LT(status.message().size(), 100'000);
}

TEST(ConfigImportTest, UnknownKeysAreShownWithoutTheirControls) {
  Json document = Json::parse(R"({"a": {"f": 1}})");
  document["\x1B[2J" + std::string(100'000, 'k')] = "\x1B[2J";
  Pair pair;

  const absl::Status status = PairConverter().Import(document, {}, &pair).status();

  EXPECT_THAT(status, IsKind(ErrorKind::kConfig, HasSubstr("\"\\u001b[2Jkkk")));
  EXPECT_LT(status.message().size(), 1000u);
}

TEST(ConfigExportTest, UnchangedConfigIsTheOriginal) {
  for (const char* original : {
           R"({"token":7,"s":6.0,"a":{"token":1,"f":3}})",
           R"({"a":{"f":3}})",
           R"({"s":null,"type":null,"a":{"f":3},"unknown":{"x":null}})",
           R"({"type":"pair","a":{"f":3},"s":6})",
       }) {
    // An integer field refuses 6.0, so that one original cannot be imported at all.
    if (absl::string_view(original).find("6.0") != absl::string_view::npos) {
      EXPECT_THAT(ExportWith(3, 6, original), HasSubstr("original of the exported config"));
    } else {
      EXPECT_EQ(ExportWith(3, 6, original), original);
    }
  }
}

TEST(ConfigExportTest, ChangesAreWrittenInPlace) {
  EXPECT_EQ(ExportWith(4, 9, R"({"s":6,"token":7,"a":{"token":1,"f":3}})"),
            R"({"s":9,"token":7,"a":{"token":1,"f":4}})");
}

TEST(ConfigExportTest, AbsentKeysStayAbsentWhileTheirDefaultIsRight) {
  EXPECT_EQ(ExportWith(4, 8, R"({"a":{"f":3}})"), R"({"a":{"f":4}})");
  EXPECT_EQ(ExportWith(4, 8, R"({"a":{"f":3},"s":null})"), R"({"a":{"f":4},"s":null})");
}

TEST(ConfigExportTest, AnUnchangedFieldWhoseDefaultMovedIsWritten) {
  // 6 was the default of 3; it is not that of 4.
  EXPECT_EQ(ExportWith(4, 6, R"({"a":{"f":3}})"), R"({"a":{"f":4},"s":6})");
}

TEST(ConfigExportTest, WithoutAnOriginalEverythingIsWritten) {
  Pair pair;
  pair.set_first(3);
  pair.set_second(6);

  ASSERT_OK_AND_ASSIGN(const Json json, PairConverter().Export(pair, nullptr, {}));

  EXPECT_EQ(json.dump(), R"({"type":"pair","a":{"f":3},"s":6})");
}

TEST(ConfigExportTest, WhatAnImportWouldNotGiveBackIsAnError) {
  const ConfigConverter converter(
      SectionBuilder(*Pair::descriptor())
          .Add("first", Rename("first", "f"))
          .Add("second", ImportOnly({{"second"}}, {"f"},
                                    [](ImportContext& context, google::protobuf::Message* message) {
                                      static_cast<Pair*>(message)->set_second(context.Find("f")->get<int64_t>());
                                    }))
          .Build()
          .value(),
      HarmlessKeys());
  Pair pair;
  pair.set_first(3);
  pair.set_second(3);
  EXPECT_OK(converter.Export(pair, nullptr, {}));

  pair.set_second(4);

  EXPECT_THAT(converter.Export(pair, nullptr, {}), IsKind(ErrorKind::kConfig, HasSubstr("the fields of second")));
}

TEST(ConfigExportTest, IgnoredFieldsMayBeLost) {
  const ConfigConverter converter(SectionBuilder(*Pair::descriptor())
                                      .Add("first", Rename("first", "f"))
                                      .Add("second", Ignored({{"second"}}, {}, "for this test"))
                                      .Build()
                                      .value(),
                                  HarmlessKeys());
  Pair pair;
  pair.set_second(4);

  EXPECT_OK(converter.Export(pair, nullptr, {}));
}

}  // namespace
}  // namespace waypoint
