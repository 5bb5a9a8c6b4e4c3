#include "checkpoint/format/external/tokenizer_check.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {
namespace {

using ::testing::HasSubstr;

absl::Status Check(TokenizerFile kind, absl::string_view text) {
  return CheckTokenizerFile(kind, text, "dir/tokenizer.json", Limits());
}

std::string Model(absl::string_view members) { return absl::StrCat("{\"model\":{", members, "}}"); }

TEST(TokenizerCheckTest, AcceptsWhatTokenizersWrite) {
  for (const std::string& text : {
           Model(R"("type":"BPE","vocab":{"a":0,"b":4294967295},"merges":["a b","Ġ a"])"),
           Model(R"("type":"BPE","vocab":{},"merges":[["a","b c"],["x","y"]])"),
           Model(R"("type":"Unigram","unk_id":0,"vocab":[["<unk>",0],["a",-1.5],["b",-2]])"),
           Model(R"("type":"WordPiece","vocab":{"[UNK]":0},"vocab_size":1.5)"),
           std::string(R"({"added_tokens":[{"id":0,"content":"<s>","special":true}],"model":{"vocab":{"a":0}},
                           "pre_tokenizer":{"pattern":{"Regex":"(a+)+$"},"vocab":{"x":"y"}},"truncation":null})"),
           std::string(R"({"added_tokens":null,"model":{"merges":null}})"),
       }) {
    EXPECT_OK(Check(TokenizerFile::kTokenizer, text)) << text;
  }
}

TEST(TokenizerCheckTest, RefusesWhatIsNoTokenizer) {
  for (const std::string& text : {
           std::string(),
           std::string(R"({"model": {"vocab")"),
           std::string("[]"),
           std::string("null"),
           std::string("{}"),
           std::string("{\"model\":{\"\xFF\":0}}"),
           std::string(R"({"model":[]})"),
           std::string(R"({"model":null})"),
           Model(R"("vocab":{"a":0,"a":1})"),
           Model(R"("vocab":{"a":4611686018427387904})"),
           Model(R"("vocab":{"a":4294967296})"),
           Model(R"("vocab":{"a":99999999999999999999})"),
           Model(R"("vocab":{"a":"0"})"),
           Model(R"("vocab":{"a":1e300})"),
           Model(R"("vocab":{"a":1.0})"),
           Model(R"("vocab":{"a":-1})"),
           Model(R"("vocab":{"a":null})"),
           Model(R"("vocab":{"a":{}})"),
           Model(R"("vocab":{"a":[0]})"),
           Model(R"("vocab":7)"),
           Model(R"("vocab":null)"),
           Model(R"("vocab":["a"])"),
           Model(R"("vocab":[["a"]])"),
           Model(R"("vocab":[["a",0,0]])"),
           Model(R"("vocab":[[0,"a"]])"),
           Model(R"("vocab":[["a","b"]])"),
           Model(R"("vocab":[{}])"),
           Model(R"("merges":{})"),
           Model(R"("merges":"a b")"),
           Model(R"("merges":["onlyone"])"),
           Model(R"("merges":["a b c"])"),
           Model(R"("merges":[7])"),
           Model(R"("merges":[["a"]])"),
           Model(R"("merges":[["a","b","c"]])"),
           Model(R"("merges":[["a",1]])"),
           Model(R"("merges":[{"a":"b"}])"),
           std::string(R"({"model":{},"added_tokens":{}})"),
           std::string(R"({"model":{},"added_tokens":["<s>"]})"),
           std::string(R"({"model":{},"added_tokens":[{"id":"1"}]})"),
           std::string(R"({"model":{},"added_tokens":[{"id":-1}]})"),
           std::string(R"({"model":{},"added_tokens":[{"content":1}]})"),
       }) {
    EXPECT_THAT(Check(TokenizerFile::kTokenizer, text), IsKind(ErrorKind::kTokenizer, HasSubstr("dir/tokenizer.json")))
        << text;
  }
}

TEST(TokenizerCheckTest, NestingIsLimited) {
  EXPECT_THAT(Check(TokenizerFile::kTokenizer, "{\"model\":" + std::string(100000, '[')), IsKind(ErrorKind::kLimit));
}

TEST(TokenizerCheckTest, MessagesNameTheEntry) {
  EXPECT_THAT(Check(TokenizerFile::kTokenizer, Model(R"("vocab":{"a":0,"b":"1"})")),
              IsKind(ErrorKind::kTokenizer, HasSubstr("token \"b\"")));
  EXPECT_THAT(Check(TokenizerFile::kTokenizer, Model(R"("merges":["a b","c"])")),
              IsKind(ErrorKind::kTokenizer, HasSubstr("merge 1")));
}

TEST(TokenizerCheckTest, AVocabularyIsAMapToIds) {
  EXPECT_OK(Check(TokenizerFile::kVocabulary, R"({"a":0,"b":1})"));
  EXPECT_OK(Check(TokenizerFile::kVocabulary, "{}"));
  for (const char* text : {"[]", R"({"a":"0"})", R"({"a":[]})", R"({"a":0,"a":1})", R"({"a":4294967296})"}) {
    EXPECT_THAT(Check(TokenizerFile::kVocabulary, text), IsKind(ErrorKind::kTokenizer)) << text;
  }
}

TEST(TokenizerCheckTest, SettingsAreAnyObject) {
  EXPECT_OK(Check(TokenizerFile::kSettings, R"({"vocab":{"a":"b"},"auto_map":{"AutoTokenizer":["evil.X",null]}})"));
  EXPECT_THAT(Check(TokenizerFile::kSettings, "[{}]"), IsKind(ErrorKind::kTokenizer));
  EXPECT_THAT(Check(TokenizerFile::kSettings, "{"), IsKind(ErrorKind::kTokenizer));
}

TEST(TokenizerCheckTest, AHundredThousandTokensAreFast) {
  std::string vocab;
  for (int i = 0; i < 100000; ++i) {
    absl::StrAppend(&vocab, i == 0 ? "" : ",", "\"t", i, "\":", i);
  }
  EXPECT_OK(Check(TokenizerFile::kTokenizer, Model("\"vocab\":{" + vocab + "}")));
}

}  // namespace
}  // namespace waypoint
