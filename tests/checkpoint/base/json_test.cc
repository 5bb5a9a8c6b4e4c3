#include "checkpoint/base/json.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::StatusOr<Json> Parse(absl::string_view text) { return ParseJson(text, "\"a.json\"", Limits()); }

std::string Repeat(absl::string_view piece, int times) {
  std::string out;
  for (int i = 0; i < times; ++i) {
    out.append(piece.data(), piece.size());
  }
  return out;
}

TEST(JsonTest, KeepsOrderAndKindsOfNumbers) {
  ASSERT_OK_AND_ASSIGN(const Json json, Parse(R"({"b": 1, "a": 1.0, "c": -2, "d": 18446744073709551615, "e": 1e2})"));

  std::vector<std::string> keys;
  for (const auto& [key, value] : json.items()) {
    keys.push_back(key);
  }
  EXPECT_THAT(keys, ElementsAre("b", "a", "c", "d", "e"));
  EXPECT_TRUE(json["b"].is_number_unsigned());
  EXPECT_TRUE(json["a"].is_number_float());
  EXPECT_EQ(json["c"], -2);
  EXPECT_EQ(json["d"], UINT64_MAX);
  EXPECT_TRUE(json["e"].is_number_float());
}

TEST(JsonTest, KeepsEscapesAndNesting) {
  ASSERT_OK_AND_ASSIGN(const Json json, Parse(R"( [{"k": ["\u00e9\ud83d\ude00\n", null, true, {}, []]}] )"));

  EXPECT_EQ(json[0]["k"][0], "\xC3\xA9\xF0\x9F\x98\x80\n");
  EXPECT_TRUE(json[0]["k"][1].is_null());
  EXPECT_EQ(json[0]["k"][2], true);
  EXPECT_EQ(json[0]["k"][3], Json::object());
  EXPECT_EQ(json[0]["k"][4], Json::array());
}

TEST(JsonTest, ScalarsAreValues) {
  EXPECT_EQ(Parse("7").value(), 7);
  EXPECT_EQ(Parse("\"x\"").value(), "x");
}

TEST(JsonTest, RefusesWhatIsNotJson) {
  const std::vector<std::string> texts = {
      "",
      " ",
      "{",
      "[1,]",
      "{\"a\":1,}",
      "{'a':1}",
      "{a:1}",
      "{}{}",
      "{} x",
      "[NaN]",
      "[Inf]",
      "[01]",
      "[1.]",
      "[+1]",
      "[.5]",
      "/*x*/{}",
      "// x\n1",
      "[\"\\x41\"]",
      "[\"\t\"]",
      "[\"a]",
      "tru",
      "[1 2]",
      "[-]",
      "[\"\\ud800\"]",
      "[\"\\udc00\"]",
      "\xEF\xBB\xBF{}",
      "[1e999]",
      "[-1e999]",
      "[1e]",
      "[1e+]",
      "[,1]",
      "{,}",
      "{\"a\"}",
      "{\"a\":}",
      "[1}",
      "{\"a\":1]",
      "]",
      "[\"\\u12g4\"]",
      "[\"\\ud800\\n\"]",
      "[\"\\ud800\\u0041\"]",
      "[\"\\",
      "[\"\\\"",
      "[nul]",
      "[truex]",
      "[\"\\u\"]",
      "[0x1]",
      "[--1]",
      std::string("{}\0\0", 4),
      std::string("[\"\0\"]", 5),
      Repeat("9", 10000),
  };
  for (const std::string& text : texts) {
    EXPECT_THAT(Parse(text), IsKind(ErrorKind::kJson, HasSubstr("\"a.json\""))) << text;
  }
}

TEST(JsonTest, NamesTheByteOfASyntaxError) {
  EXPECT_THAT(Parse("{\"a\": 1, x}"), IsKind(ErrorKind::kJson, HasSubstr("(byte 9)")));
  EXPECT_THAT(Parse(std::string("{}\0", 3)), IsKind(ErrorKind::kJson, HasSubstr("(byte 2)")));
}

TEST(JsonTest, EveryCutIsAnError) {
  const std::string text = R"({"a\"\u00e9\ud83d\ude00":[1,-2.5e+3,true,false,null,{"b":"c"}],"d":{}})";
  ASSERT_OK(Parse(text));
  for (size_t length = 0; length < text.size(); ++length) {
    EXPECT_THAT(Parse(text.substr(0, length)), IsKind(ErrorKind::kJson)) << length;
  }
}

TEST(JsonTest, TinyNumbersAreZero) {
  EXPECT_EQ(Parse("1e-400").value(), 0.0);
  EXPECT_EQ(Parse("-0.0").value(), 0.0);
  EXPECT_EQ(Parse("5e-324").value(), 5e-324);
  EXPECT_EQ(Parse("1.7976931348623157e308").value(), 1.7976931348623157e308);
}

TEST(JsonTest, KeysAreLimited) {
  Limits limits;
  limits.json_keys = 3;
  EXPECT_OK(ParseJson(R"([{"a":1,"b":2,"c":3},{"a":1,"b":2,"c":3}])", "x", limits));
  EXPECT_THAT(ParseJson(R"({"a":1,"b":{"c":2,"d":3}})", "x", limits),
              IsKind(ErrorKind::kLimit, HasSubstr("json_keys")));
}

TEST(JsonTest, NamesAMarkOfUtf16) {
  EXPECT_THAT(Parse(std::string("\xFF\xFE{\0}\0", 6)), IsKind(ErrorKind::kJson, HasSubstr("byte-order mark")));
}

TEST(JsonTest, RefusesIntegersBeyond64Bits) {
  EXPECT_THAT(Parse("[18446744073709551616]"), IsKind(ErrorKind::kJson, HasSubstr("18446744073709551616")));
  EXPECT_THAT(Parse("[-9223372036854775809]"), IsKind(ErrorKind::kJson));
  EXPECT_EQ(Parse("[-9223372036854775808]").value()[0], INT64_MIN);
}

TEST(JsonTest, RefusesRepeatedKeysOfOneObject) {
  EXPECT_THAT(Parse(R"({"a": 1, "b": 2, "a": 3})"), IsKind(ErrorKind::kDupKey, HasSubstr("\"a\"")));
  EXPECT_THAT(Parse(R"({"t": 1, "\u0074": 2})"), IsKind(ErrorKind::kDupKey));
  EXPECT_THAT(Parse(R"({"\u0074": 1, "t": 2})"), IsKind(ErrorKind::kDupKey));
  EXPECT_THAT(Parse(R"({"\u0074": 1, "\u0074": 2})"), IsKind(ErrorKind::kDupKey));
  EXPECT_THAT(Parse(R"([{"x": {"a": 1, "a": 1}}])"), IsKind(ErrorKind::kDupKey));
  EXPECT_OK(Parse(R"({"a": {"a": {"a": 1}}, "b": [{"a": 1}, {"a": 1}]})"));
  EXPECT_OK(Parse(R"({"a": 1, "aa": 2, "": 3, "ba": 4})"));
  const std::string many = R"({"a":0,"b":0,"c":0,"d":0,"e":0,"f":0,"g":0,"h":0,"i":0,"j":0,)";
  EXPECT_OK(Parse(many + R"("k":0})"));
  for (const char* key : {"a", "g", "h", "i", "j"}) {
    EXPECT_THAT(Parse(absl::StrCat(many, "\"", key, "\":0}")), IsKind(ErrorKind::kDupKey)) << key;
  }
}

TEST(JsonTest, DepthEndsAtTheLimit) {
  EXPECT_OK(Parse(Repeat("[", 64) + Repeat("]", 64)));
  EXPECT_THAT(Parse(Repeat("[", 65) + Repeat("]", 65)), IsKind(ErrorKind::kLimit, HasSubstr("json_depth")));
  EXPECT_THAT(Parse(Repeat("[", 1000000)), IsKind(ErrorKind::kLimit));
  EXPECT_THAT(Parse(Repeat("{\"a\":", 200000)), IsKind(ErrorKind::kLimit));
}

TEST(JsonTest, ManyKeysTakeLinearTime) {
  std::string text = "{";
  for (int i = 0; i < 200000; ++i) {
    absl::StrAppend(&text, i == 0 ? "" : ",", "\"key", i, "\":", i);
  }
  ASSERT_OK_AND_ASSIGN(const Json json, Parse(text + "}"));
  EXPECT_EQ(json.size(), 200000u);
}

TEST(JsonTest, LongTokensMakeShortMessages) {
  const absl::Status status = Parse("[" + Repeat("x", 1000000)).status();
  EXPECT_THAT(status, IsKind(ErrorKind::kJson));
  EXPECT_LT(status.message().size(), 400u);
}

TEST(CheckUtf8Test, AcceptsEveryLengthAtEveryPlace) {
  for (const char* character : {"a", "\x7F", "\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF", "\xEE\x80\x80",
                                "\xEF\xBF\xBF", "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF"}) {
    for (int before = 0; before < 10; ++before) {
      EXPECT_OK(CheckUtf8(Repeat("a", before) + character + "bcdefghijk", "x")) << before;
    }
  }
}

TEST(CheckUtf8Test, NamesTheFirstBadByte) {
  for (const char* bad : {"\x80", "\xBF", "\xC0\x80", "\xC1\xBF", "\xC2", "\xC2\x20", "\xE0\x80\x80", "\xE0\x9F\xBF",
                          "\xE4\xB8", "\xED\xA0\x80", "\xED\xBF\xBF", "\xF0\x80\x80\x80", "\xF0\x8F\xBF\xBF",
                          "\xF0\x90\x80", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFE", "\xFF"}) {
    for (int before = 0; before < 10; ++before) {
      const std::string text = Repeat("a", before) + bad;
      EXPECT_THAT(CheckUtf8(text, "x"), IsKind(ErrorKind::kUtf8, HasSubstr(absl::StrCat(" at ", before)))) << text;
    }
  }
}

// Keeps what it is told.
class Recorder final : public JsonEvents {
 public:
  std::string seen;
  absl::Status StartObject() override { return See("{"); }
  absl::Status Key(std::string& key) override { return See(key + ":"); }
  absl::Status EndObject() override { return See("}"); }
  absl::Status StartArray() override { return See("["); }
  absl::Status EndArray() override { return See("]"); }
  absl::Status String(std::string& value) override { return See("s" + value); }
  absl::Status Integer(int64_t value) override { return See(absl::StrCat("i", value)); }
  absl::Status Unsigned(uint64_t value) override { return See(absl::StrCat("u", value)); }
  absl::Status Float(double, const std::string& text) override { return See("f" + text); }
  absl::Status Bool(bool value) override { return See(value ? "T" : "F"); }
  absl::Status Null() override { return MakeError(ErrorKind::kSchema, "no nulls here"); }

 private:
  absl::Status See(const std::string& what) {
    seen += what + " ";
    return absl::OkStatus();
  }
};

TEST(ParseJsonEventsTest, EveryValueIsAnEvent) {
  Recorder recorder;

  EXPECT_OK(ParseJsonEvents(R"({"a": [1, -1, -0, 1.50, 99999999999999999999, "x", true, false], "b": {}})", "x",
                            Limits(), recorder));

  EXPECT_EQ(recorder.seen, "{ a: [ u1 i-1 i0 f1.50 f99999999999999999999 sx T F ] b: { } } ");
}

TEST(ParseJsonEventsTest, AnErrorOfACallbackEndsTheParse) {
  Recorder recorder;

  EXPECT_THAT(ParseJsonEvents("[1, null, 2]", "x", Limits(), recorder), IsKind(ErrorKind::kSchema, "no nulls here"));

  EXPECT_EQ(recorder.seen, "[ u1 ");
}

TEST(DumpJsonTest, FloatsAreWrittenAsPythonDoes) {
  const std::vector<std::pair<double, std::string>> floats = {
      {1e-05, "1e-05"},
      {0.0001, "0.0001"},
      {10000.0, "10000.0"},
      {1e15, "1000000000000000.0"},
      {1e16, "1e+16"},
      {1.5e16, "1.5e+16"},
      {123456789012345680.0, "1.2345678901234568e+17"},
      {0.1, "0.1"},
      {-0.5, "-0.5"},
      {0.0, "0.0"},
      {-0.0, "-0.0"},
      {1e100, "1e+100"},
      {5e-324, "5e-324"},
      {1.7976931348623157e308, "1.7976931348623157e+308"},
      {0.02, "0.02"},
      {500000.0, "500000.0"},
      {3.141592653589793, "3.141592653589793"},
      {0.00012345, "0.00012345"},
      {1.2345e-5, "1.2345e-05"},
      {9007199254740993.0, "9007199254740992.0"},
  };
  for (const auto& [value, text] : floats) {
    EXPECT_EQ(DumpJson(Json(value)), text + "\n");
  }
}

TEST(DumpJsonTest, LayoutIsPythons) {
  ASSERT_OK_AND_ASSIGN(const Json json,
                       Parse(R"({"b":[1,{"x":null}],"a":{},"c":[],"d":"é\u0001\"\\/\n\t","e":[true,-3]})"));

  EXPECT_EQ(DumpJson(json), R"({
  "b": [
    1,
    {
      "x": null
    }
  ],
  "a": {},
  "c": [],
  "d": "é\u0001\"\\/\n\t",
  "e": [
    true,
    -3
  ]
}
)");
}

TEST(DumpJsonTest, ParsesBackToTheSame) {
  ASSERT_OK_AND_ASSIGN(const Json json, Parse(R"({"z": [0.1, 1e-7, 12, "\u2028\ud83d\ude00"], "y": {"x": [[]]}})"));
  EXPECT_EQ(Parse(DumpJson(json)).value(), json);
}

TEST(QuotedTest, ATerminalShowsEveryCharacter) {
  EXPECT_EQ(Quoted("\x1B[31m\x7F"), R"("\u001b[31m\u007f")");
  EXPECT_EQ(Quoted("\u202Egnp.\u200B\u2028\u009B\uFEFF"), R"("\u202egnp.\u200b\u2028\u009b\ufeff")");
  EXPECT_EQ(Quoted("\u00E9\u4E2D\U0001F600"), "\"\u00E9\u4E2D\U0001F600\"");
  EXPECT_EQ(QuotedPath("a\xFF\xC3"), R"("a\xff\xc3")");
}

TEST(QuotedTest, LongNamesAreCutBetweenCharacters) {
  EXPECT_EQ(Quoted("a\"b\n"), R"("a\"b\n")");
  EXPECT_EQ(Quoted(Repeat("x", 119) + "\xC3\xA9" + "y"), "\"" + Repeat("x", 119) + "\"... (122 bytes)");
}

}  // namespace
}  // namespace waypoint
