#include "checkpoint/container/safetensors/index.h"

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

absl::StatusOr<SafetensorsIndex> Parse(absl::string_view text, const Limits& limits = Limits()) {
  return ParseSafetensorsIndex(text, "dir/model.safetensors.index.json", limits);
}

std::string Map(absl::string_view map) { return absl::StrCat("{\"weight_map\":", map, "}"); }

TEST(SafetensorsIndexTest, KeepsPlacesFilesAndMetadata) {
  ASSERT_OK_AND_ASSIGN(
      const SafetensorsIndex index,
      Parse(R"({"other": [{"weight_map": 1}], "metadata": {"total_size": 12, "total_parameters": 3, "x": [1, {}]},
                "weight_map": {"b": "model-2.safetensors", "a": "model-1.safetensors", "c": "model-2.safetensors"}})"));

  EXPECT_THAT(index.files, ElementsAre("model-2.safetensors", "model-1.safetensors"));
  ASSERT_EQ(index.places.size(), 3u);
  EXPECT_EQ(index.places[0].tensor, "b");
  EXPECT_EQ(index.places[0].file, 0);
  EXPECT_EQ(index.places[1].tensor, "a");
  EXPECT_EQ(index.places[1].file, 1);
  EXPECT_EQ(index.places[2].file, 0);
  EXPECT_EQ(index.total_bytes, 12);
  EXPECT_EQ(index.metadata["total_parameters"], 3);
  EXPECT_EQ(index.metadata["x"][1], Json::object());
}

TEST(SafetensorsIndexTest, MetadataMayBeAbsent) {
  ASSERT_OK_AND_ASSIGN(const SafetensorsIndex index, Parse(Map(R"({"a":"m.safetensors"})")));
  EXPECT_EQ(index.metadata, Json::object());
  EXPECT_FALSE(index.total_bytes.has_value());
}

TEST(SafetensorsIndexTest, TotalMayBeAWholeFloat) {
  const std::string map = R"("weight_map":{"a":"m.safetensors"}})";
  EXPECT_EQ(Parse(R"({"metadata":{"total_size":16060522496.0},)" + map).value().total_bytes, 16060522496);
  for (const char* total :
       {"\"12\"", "12.5", "-1", "-1.0", "1e300", "null", "[1]", "{}", "true", "9223372036854775808"}) {
    EXPECT_THAT(Parse(absl::StrCat("{\"metadata\":{\"total_size\":", total, "},", map)),
                IsKind(ErrorKind::kSchema, HasSubstr("total_size")))
        << total;
  }
}

TEST(SafetensorsIndexTest, RefusesWhatIsNoIndex) {
  const std::vector<std::pair<std::string, ErrorKind>> texts = {
      {"", ErrorKind::kJson},
      {"{weight_map}", ErrorKind::kJson},
      {"\xEF\xBB\xBF{}", ErrorKind::kJson},
      {Map(R"({"a":"m.safetensors",})"), ErrorKind::kJson},
      {"{\"weight_map\":{\"\xFF\":\"m.safetensors\"}}", ErrorKind::kUtf8},
      {"[]", ErrorKind::kSchema},
      {"null", ErrorKind::kSchema},
      {"7", ErrorKind::kSchema},
      {"{}", ErrorKind::kSchema},
      {R"({"metadata":{}})", ErrorKind::kSchema},
      {R"({"metadata":{"weight_map":{"a":"m.safetensors"}}})", ErrorKind::kSchema},
      {R"({"metadata":[],"weight_map":{"a":"m.safetensors"}})", ErrorKind::kSchema},
      {Map("[]"), ErrorKind::kSchema},
      {Map("null"), ErrorKind::kSchema},
      {Map("\"m.safetensors\""), ErrorKind::kSchema},
      {Map(R"({"a":5})"), ErrorKind::kSchema},
      {Map(R"({"a":null})"), ErrorKind::kSchema},
      {Map(R"({"a":true})"), ErrorKind::kSchema},
      {Map(R"({"a":-1.5})"), ErrorKind::kSchema},
      {Map(R"({"a":["m.safetensors"]})"), ErrorKind::kSchema},
      {Map(R"({"a":{"b":"m.safetensors"}})"), ErrorKind::kSchema},
      {Map("{}"), ErrorKind::kMissing},
      {Map(R"({"a":"m.safetensors","a":"m.safetensors"})"), ErrorKind::kDupKey},
      {R"({"weight_map":{"a":"m.safetensors"},"weight_map":{"a":"n.safetensors"}})", ErrorKind::kDupKey},
      {Map(std::string(100, '[')), ErrorKind::kLimit},
      {Map(absl::StrCat("{\"", std::string(65537, 'n'), "\":\"m.safetensors\"}")), ErrorKind::kLimit},
  };
  for (const auto& [text, kind] : texts) {
    EXPECT_THAT(Parse(text), IsKind(kind, HasSubstr("dir/model.safetensors.index.json"))) << text.substr(0, 100);
  }
}

TEST(SafetensorsIndexTest, FileNamesArePlain) {
  for (const char* name : {"../../secret.safetensors",
                           "/etc/passwd",
                           "/abs.safetensors",
                           "~/x.safetensors",
                           "$HOME/x.safetensors",
                           "..\\\\x.safetensors",
                           "C:\\\\x.safetensors",
                           "https://example.invalid/x.safetensors",
                           "%2e%2e/x.safetensors",
                           "",
                           ".",
                           "..",
                           "m.safetensors\\u0000/../x.safetensors",
                           "m.safetensors\\n",
                           "m.safetensors/",
                           "M.SAFETENSORS",
                           "\xE2\x88\x95x.safetensors",
                           ".git/config",
                           ".safetensors",
                           "-x.safetensors",
                           "config.json",
                           "sub/x.safetensors",
                           "x.bin",
                           "a b.safetensors",
                           "a*.safetensors"}) {
    EXPECT_THAT(Parse(Map(absl::StrCat("{\"a\":\"", name, "\"}"))),
                IsKind(ErrorKind::kPath, AllOf(HasSubstr("\"a\""), HasSubstr("plain file name"))))
        << name;
  }
  EXPECT_THAT(Parse(Map(absl::StrCat("{\"a\":\"", std::string(5000, 'n'), ".safetensors\"}"))),
              IsKind(ErrorKind::kPath));
  EXPECT_OK(Parse(Map(R"({"a":"_Model-00001.of.2.safetensors"})")));
}

TEST(SafetensorsIndexTest, SyntaxComesBeforeTypesAndTypesBeforeNames) {
  EXPECT_THAT(Parse(R"({"weight_map":{"a":5,"b":"../x"},)"), IsKind(ErrorKind::kJson));
  EXPECT_THAT(Parse(R"({"weight_map":{"b":"../x","a":5}})"), IsKind(ErrorKind::kSchema));
}

TEST(SafetensorsIndexTest, CountsAreLimited) {
  Limits limits;
  limits.index_tensors = 2;
  limits.shard_files = 1;
  EXPECT_OK(Parse(Map(R"({"a":"m.safetensors","b":"m.safetensors"})"), limits));
  EXPECT_THAT(Parse(Map(R"({"a":"m.safetensors","b":"m.safetensors","c":"m.safetensors"})"), limits),
              IsKind(ErrorKind::kLimit, HasSubstr("index_tensors")));
  EXPECT_THAT(Parse(Map(R"({"a":"m.safetensors","b":"n.safetensors"})"), limits),
              IsKind(ErrorKind::kLimit, HasSubstr("shard_files")));
}

TEST(SafetensorsIndexTest, TwoHundredThousandTensorsAreFast) {
  std::string map = "{";
  for (int i = 0; i < 200000; ++i) {
    absl::StrAppend(&map, i == 0 ? "" : ",", "\"layers.", i, ".w\":\"m", i % 50000, ".safetensors\"");
  }
  ASSERT_OK_AND_ASSIGN(const SafetensorsIndex index, Parse(Map(map + "}")));
  EXPECT_EQ(index.places.size(), 200000u);
  EXPECT_EQ(index.files.size(), 50000u);
}

TEST(BuildSafetensorsIndexTest, TextIsHuggingFaces) {
  Json metadata = Json::object();
  metadata["total_size"] = 354688;
  metadata["note"] = "\xC3\xA9 \xF0\x9F\x98\x80 \x7F";

  EXPECT_EQ(BuildSafetensorsIndex({{"model.norm.weight", "model-00002-of-00002.safetensors"},
                                   {"lm_head.weight", "model-00002-of-00002.safetensors"},
                                   {"model.embed_tokens.weight", "model-00001-of-00002.safetensors"}},
                                  metadata),
            R"({
  "metadata": {
    "note": "\u00e9 \ud83d\ude00 \u007f",
    "total_size": 354688
  },
  "weight_map": {
    "lm_head.weight": "model-00002-of-00002.safetensors",
    "model.embed_tokens.weight": "model-00001-of-00002.safetensors",
    "model.norm.weight": "model-00002-of-00002.safetensors"
  }
}
)");
}

TEST(BuildSafetensorsIndexTest, ReadsBack) {
  Json metadata = Json::object();
  metadata["total_size"] = 7;
  ASSERT_OK_AND_ASSIGN(
      const SafetensorsIndex index,
      Parse(BuildSafetensorsIndex({{"\xC3\xA9\"", "a.safetensors"}, {"b", "c.safetensors"}}, metadata)));
  EXPECT_EQ(index.total_bytes, 7);
  EXPECT_EQ(index.places[0].tensor, "b");
  EXPECT_EQ(index.places[1].tensor, "\xC3\xA9\"");
  EXPECT_THAT(index.files, ElementsAre("c.safetensors", "a.safetensors"));
}

}  // namespace
}  // namespace waypoint
