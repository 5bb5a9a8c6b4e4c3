#include "checkpoint/format/external/hf_directory.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/safetensors_bytes.h"
#include "tests/testing/status_matchers.h"
#include "tests/testing/temp_directory.h"

namespace waypoint {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr char kIndex[] = "model.safetensors.index.json";
constexpr char kShard1[] = "model-00001-of-00002.safetensors";
constexpr char kShard2[] = "model-00002-of-00002.safetensors";
constexpr char kIndexText[] = R"({"metadata":{"total_size":24},"weight_map":{
    "a":"model-00001-of-00002.safetensors","b":"model-00001-of-00002.safetensors","c":"model-00002-of-00002.safetensors"}})";
constexpr char kTokenizer[] = R"({"model":{"type":"BPE","vocab":{"a":0,"b":1},"merges":["a b"]}})";

class HfDirectoryTest : public ::testing::Test {
 protected:
  HfDirectoryTest() { directory_.Write("config.json", R"({"model_type":"llama"})"); }

  void WriteSingle() { directory_.Write("model.safetensors", FloatFile({{"a", 1}, {"b", 2}, {"c", 3}})); }
  void WriteSharded() {
    directory_.Write(kShard1, FloatFile({{"a", 1}, {"b", 2}}));
    directory_.Write(kShard2, FloatFile({{"c", 3}}));
    directory_.Write(kIndex, kIndexText);
  }
  void EditIndex(absl::string_view from, absl::string_view to) {
    directory_.Write(kIndex, absl::StrReplaceAll(kIndexText, {{from, to}}));
  }

  absl::StatusOr<HfDirectory> Read() { return ReadHfDirectory(PosixFileSystem(), directory_.path(), LoadOptions()); }
  absl::StatusOr<HfDirectory> ReadStrictly() {
    LoadOptions options;
    options.strict = true;
    return ReadHfDirectory(PosixFileSystem(), directory_.path(), options);
  }

  const TempDirectory directory_;
};

std::vector<std::string> AssetNames(const HfDirectory& hf) {
  std::vector<std::string> names;
  for (const Asset& asset : hf.assets) {
    names.push_back(asset.name);
  }
  return names;
}

TEST_F(HfDirectoryTest, OneFile) {
  WriteSingle();

  ASSERT_OK_AND_ASSIGN(const HfDirectory hf, ReadStrictly());

  EXPECT_EQ(hf.config["model_type"], "llama");
  EXPECT_EQ(hf.config_text, R"({"model_type":"llama"})");
  ASSERT_EQ(hf.shards.size(), 1u);
  EXPECT_EQ(hf.shards[0].name, "model.safetensors");
  EXPECT_EQ(hf.shards[0].path, directory_.Path("model.safetensors"));
  EXPECT_EQ(hf.shards[0].header.entries.size(), 3u);
  EXPECT_THAT(hf.assets, IsEmpty());
  EXPECT_THAT(hf.notes, IsEmpty());
}

TEST_F(HfDirectoryTest, NamesThatNothingStoresAreLeftBehind) {
  WriteSingle();
  directory_.Write("a\nb.md", "x");
  directory_.Write("-rf.md", "x");
  directory_.Write("with space.md", "x");

  ASSERT_OK_AND_ASSIGN(const HfDirectory hf, Read());

  EXPECT_THAT(AssetNames(hf), ElementsAre("with space.md"));
  EXPECT_THAT(hf.notes, Contains(AllOf(HasSubstr("\"-rf.md\""), HasSubstr(R"("a\nb.md")"))));
}

TEST_F(HfDirectoryTest, Shards) {
  WriteSharded();

  ASSERT_OK_AND_ASSIGN(const HfDirectory hf, ReadStrictly());

  ASSERT_EQ(hf.shards.size(), 2u);
  EXPECT_EQ(hf.shards[0].name, kShard1);
  EXPECT_EQ(hf.shards[1].header.entries[0].name, "c");
  EXPECT_THAT(hf.notes, IsEmpty());
}

TEST_F(HfDirectoryTest, ThroughALink) {
  WriteSingle();
  const TempDirectory other;
  other.Link(directory_.path(), "link");
  EXPECT_OK(ReadHfDirectory(PosixFileSystem(), other.Path("link"), LoadOptions()));
}

TEST_F(HfDirectoryTest, HubCache) {
  const TempDirectory cache;
  cache.MakeDirectory("models--o--m/snapshots/abc");
  cache.MakeDirectory("models--o--m/blobs");
  cache.Write("models--o--m/blobs/0", "{}");
  cache.Write("models--o--m/blobs/1", FloatFile({{"a", 1}}));
  cache.Write("models--o--m/blobs/2", kTokenizer);
  cache.Link("../../blobs/0", "models--o--m/snapshots/abc/config.json");
  cache.Link("../../blobs/1", "models--o--m/snapshots/abc/model.safetensors");
  cache.Link("../../blobs/2", "models--o--m/snapshots/abc/tokenizer.json");

  ASSERT_OK_AND_ASSIGN(const HfDirectory hf,
                       ReadHfDirectory(PosixFileSystem(), cache.Path("models--o--m/snapshots/abc"), LoadOptions()));

  EXPECT_EQ(hf.shards[0].name, "model.safetensors");
  EXPECT_EQ(hf.shards[0].path, cache.Path("models--o--m/blobs/1"));
  EXPECT_EQ(hf.assets[0].name, "tokenizer.json");
  EXPECT_EQ(hf.assets[0].path, cache.Path("models--o--m/blobs/2"));
}

TEST_F(HfDirectoryTest, ConfigMustBeAnObject) {
  WriteSingle();
  const std::vector<std::pair<std::string, ErrorKind>> configs = {
      {"", ErrorKind::kJson},
      {"hello", ErrorKind::kJson},
      {R"({"a":NaN})", ErrorKind::kJson},
      {R"({"a":Infinity})", ErrorKind::kJson},
      {std::string("\xFF\xFE{\0}\0", 6), ErrorKind::kJson},
      {"{\"a\":\"\xFF\"}", ErrorKind::kUtf8},
      {"[]", ErrorKind::kSchema},
      {"null", ErrorKind::kSchema},
      {R"({"a":1,"a":2})", ErrorKind::kDupKey},
      {std::string(1000, '['), ErrorKind::kLimit},
      {"{\"a\":\"" + std::string(17 << 20, 'x') + "\"}", ErrorKind::kLimit},
  };
  for (const auto& [config, kind] : configs) {
    directory_.Write("config.json", config);
    EXPECT_THAT(Read(), IsKind(kind, HasSubstr("config.json"))) << config.substr(0, 50);
  }
}

TEST_F(HfDirectoryTest, ConfigMustBeAFile) {
  WriteSingle();
  directory_.Remove("config.json");
  EXPECT_THAT(Read(), IsKind(ErrorKind::kIo, HasSubstr("config.json")));
  directory_.MakeDirectory("config.json");
  EXPECT_THAT(Read(), IsKind(ErrorKind::kIo));
  directory_.Fifo("config.json");
  EXPECT_THAT(Read(), IsKind(ErrorKind::kIo));
  directory_.Link("/etc/passwd", "config.json");
  EXPECT_THAT(Read(), IsKind(ErrorKind::kPath));
}

TEST_F(HfDirectoryTest, WithoutWeights) {
  EXPECT_THAT(Read(), IsKind(ErrorKind::kMissing, HasSubstr("neither model.safetensors")));
  directory_.Write("weights.safetensors", FloatFile({{"a", 1}}));
  EXPECT_THAT(Read(), IsKind(ErrorKind::kMissing, HasSubstr("\"weights.safetensors\"")));
}

TEST_F(HfDirectoryTest, AbsentShardsAreNamed) {
  WriteSharded();
  directory_.Remove(kShard2);
  EXPECT_THAT(Read(), IsKind(ErrorKind::kMissing, HasSubstr(kShard2)));
}

TEST_F(HfDirectoryTest, FiftyThousandAbsentShardsAreOneShortError) {
  std::string map;
  for (int i = 0; i < 50000; ++i) {
    absl::StrAppend(&map, i == 0 ? "" : ",", "\"t", i, "\":\"m", i, ".safetensors\"");
  }
  directory_.Write(kIndex, "{\"weight_map\":{" + map + "}}");
  const absl::Status status = Read().status();
  EXPECT_THAT(status, IsKind(ErrorKind::kMissing, HasSubstr("49990 more")));
  EXPECT_LT(status.message().size(), 1000u);
}

TEST_F(HfDirectoryTest, BrokenShardsAreErrors) {
  WriteSharded();
  const std::string good = FloatFile({{"c", 3}});
  directory_.Write(kShard2, good.substr(0, good.size() - 1));
  EXPECT_THAT(Read(), IsKind(ErrorKind::kTruncated, HasSubstr(kShard2)));
  directory_.Write(kShard2, "");
  EXPECT_THAT(Read(), IsKind(ErrorKind::kTruncated, HasSubstr(kShard2)));
  directory_.Write(kShard2, "version https://git-lfs.github.com/spec/v1\n");
  EXPECT_THAT(Read(), IsKind(ErrorKind::kHeader, HasSubstr(kShard2)));
  directory_.Remove(kShard2);
  directory_.MakeDirectory(kShard2);
  EXPECT_THAT(Read(), IsKind(ErrorKind::kIo, HasSubstr(kShard2)));
  directory_.Fifo(kShard2);
  EXPECT_THAT(Read(), IsKind(ErrorKind::kIo, HasSubstr(kShard2)));
}

TEST_F(HfDirectoryTest, LinkedShards) {
  WriteSharded();
  const TempDirectory outside;
  outside.Write("secret.safetensors", FloatFile({{"c", 3}}));
  directory_.Link(outside.Path("secret.safetensors"), kShard2);
  EXPECT_THAT(Read(), IsKind(ErrorKind::kPath, HasSubstr(kShard2)));
  directory_.Link(kShard2, kShard2);
  EXPECT_THAT(Read(), IsKind(ErrorKind::kIo));
  directory_.Link("nowhere", kShard2);
  EXPECT_THAT(Read(), IsKind(ErrorKind::kIo));
  directory_.Link(".", kShard2);
  EXPECT_THAT(Read(), IsKind(ErrorKind::kIo));
  directory_.Write("weights", FloatFile({{"c", 3}}));
  directory_.Link("weights", kShard2);
  EXPECT_OK(Read());
}

TEST_F(HfDirectoryTest, PathsInTheIndexAreRefused) {
  WriteSharded();
  for (const char* name :
       {"../x.safetensors", "/etc/passwd", "/dev/zero", "sub/x.safetensors", "config.json", "x.bin", ""}) {
    EditIndex(kShard2, name);
    EXPECT_THAT(Read(), IsKind(ErrorKind::kPath, HasSubstr(kIndex))) << name;
  }
}

TEST_F(HfDirectoryTest, BrokenIndicesAreErrors) {
  WriteSharded();
  directory_.Write(kIndex, "");
  EXPECT_THAT(Read(), IsKind(ErrorKind::kJson, HasSubstr(kIndex)));
  directory_.Write(kIndex, "{\"metadata\":{}}");
  EXPECT_THAT(Read(), IsKind(ErrorKind::kSchema, HasSubstr(kIndex)));
  directory_.Write(kIndex, "{\"weight_map\":{}}");
  EXPECT_THAT(Read(), IsKind(ErrorKind::kMissing, HasSubstr(kIndex)));
  directory_.Remove(kIndex);
  directory_.MakeDirectory(kIndex);
  EXPECT_THAT(Read(), IsKind(ErrorKind::kIo, HasSubstr(kIndex)));
}

TEST_F(HfDirectoryTest, IndexAndShardsAgreeBothWays) {
  WriteSharded();
  EditIndex(R"("c":"model-00002)", R"("c":"model-00001)");
  EXPECT_THAT(Read(), IsKind(ErrorKind::kMissing, HasSubstr("\"c in model-00001-of-00002.safetensors\"")));
  EditIndex(R"("b":"model-00001)", R"("b":"model-00002)");
  EXPECT_THAT(Read(), IsKind(ErrorKind::kMissing, HasSubstr("but in model-00001")));
  EditIndex(R"("b":)", R"("ghost":"model-00001-of-00002.safetensors","b":)");
  EXPECT_THAT(Read(), IsKind(ErrorKind::kMissing, HasSubstr("ghost")));
  EditIndex(R"("b":"model-00001-of-00002.safetensors",)", "");
  EXPECT_THAT(Read(), IsKind(ErrorKind::kExtra, HasSubstr("\"b in model-00001-of-00002.safetensors\"")));
}

TEST_F(HfDirectoryTest, NoTensorIsInTwoShards) {
  WriteSharded();
  directory_.Write(kShard2, FloatFile({{"c", 3}, {"a", 1}}));
  EXPECT_THAT(Read(), IsKind(ErrorKind::kDupKey, AllOf(HasSubstr("\"a\""), HasSubstr(kShard1), HasSubstr(kShard2))));
}

TEST_F(HfDirectoryTest, TotalSizeIsCheckedStrictly) {
  WriteSharded();
  for (const char* total : {"0", "23", "4611686018427387904"}) {
    EditIndex("24", total);
    EXPECT_OK(Read());
    EXPECT_THAT(ReadStrictly(), IsKind(ErrorKind::kSizeMismatch, HasSubstr("24 bytes")));
  }
  EditIndex("24", "24.0");
  EXPECT_OK(ReadStrictly());
}

TEST_F(HfDirectoryTest, SafetensorsGoBeforeBinFiles) {
  WriteSingle();
  directory_.Write("pytorch_model.bin", "PK");

  ASSERT_OK_AND_ASSIGN(const HfDirectory hf, Read());

  EXPECT_EQ(hf.shards.size(), 1u);
  EXPECT_THAT(hf.bin_files, IsEmpty());
  EXPECT_THAT(hf.notes, ElementsAre(HasSubstr("pytorch_model.bin")));
  EXPECT_THAT(ReadStrictly(), IsKind(ErrorKind::kAmbiguous, HasSubstr("pytorch_model.bin")));
}

TEST_F(HfDirectoryTest, BrokenSafetensorsAreNotReplacedByBinFiles) {
  directory_.Write("model.safetensors", FloatFile({{"a", 1}}).substr(0, 50));
  directory_.Write("pytorch_model.bin", "PK");
  EXPECT_THAT(Read(), IsKind(ErrorKind::kTruncated));
}

TEST_F(HfDirectoryTest, BinFilesAreListed) {
  directory_.Write("pytorch_model-00002-of-00002.bin", "PK");
  directory_.Write("pytorch_model-00001-of-00002.bin", "PK");
  directory_.Write("pytorch_model.bin.index.json", "{}");
  directory_.Write("training_args.bin", "PK");

  ASSERT_OK_AND_ASSIGN(const HfDirectory hf, Read());

  EXPECT_THAT(hf.shards, IsEmpty());
  EXPECT_THAT(hf.bin_files, ElementsAre("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"));
  EXPECT_THAT(hf.BinFilesMessage(),
              AllOf(HasSubstr("pytorch_model-00001-of-00002.bin"), HasSubstr("safe_serialization")));
  EXPECT_THAT(hf.notes, ElementsAre(HasSubstr("\"training_args.bin\"")));
}

TEST_F(HfDirectoryTest, TwoSetsOfSafetensors) {
  WriteSharded();
  WriteSingle();

  ASSERT_OK_AND_ASSIGN(const HfDirectory hf, Read());

  EXPECT_EQ(hf.shards[0].name, "model.safetensors");
  EXPECT_THAT(hf.notes, Contains(HasSubstr(kIndex)));
  EXPECT_THAT(ReadStrictly(), IsKind(ErrorKind::kAmbiguous));
}

TEST_F(HfDirectoryTest, AssetsTravelAndTheRestIsNamed) {
  WriteSharded();
  const std::vector<std::string> assets = {"LICENSE.txt",
                                           "README.md",
                                           "USE_POLICY.md",
                                           "added_tokens.json",
                                           "chat_template.jinja",
                                           "generation_config.json",
                                           "merges.txt",
                                           "modeling_x.py",
                                           "preprocessor_config.json",
                                           "qwen.tiktoken",
                                           "special_tokens_map.json",
                                           "tokenizer.json",
                                           "tokenizer.model",
                                           "tokenizer.model.v3",
                                           "tokenizer_config.json",
                                           "vocab.json"};
  for (const std::string& name : assets) {
    directory_.Write(name, name == "tokenizer.json" ? kTokenizer : "{}");
  }
  directory_.Write("model-00003-of-00003.safetensors", "junk");
  directory_.Write("optimizer.pt", "PK");
  directory_.Write(".gitattributes", "x");
  directory_.MakeDirectory("original.md");

  ASSERT_OK_AND_ASSIGN(const HfDirectory hf, ReadStrictly());

  EXPECT_EQ(AssetNames(hf), assets);
  EXPECT_EQ(hf.assets[0].path, directory_.Path("LICENSE.txt"));
  EXPECT_EQ(hf.assets[0].size_bytes, 2);
  ASSERT_EQ(hf.notes.size(), 1u);
  for (const char* name : {".gitattributes", "model-00003-of-00003.safetensors", "optimizer.pt", "original.md"}) {
    EXPECT_THAT(hf.notes[0], HasSubstr(absl::StrCat("\"", name, "\"")));
  }
  EXPECT_THAT(hf.notes[0], Not(HasSubstr("config.json")));
}

TEST_F(HfDirectoryTest, BrokenAssetsAreErrors) {
  WriteSingle();
  const std::vector<std::tuple<std::string, std::string, ErrorKind>> assets = {
      {"tokenizer.json", "{\"model\":{", ErrorKind::kTokenizer},
      {"tokenizer.json", "", ErrorKind::kTokenizer},
      {"tokenizer.json", "[]", ErrorKind::kTokenizer},
      {"tokenizer.json", "{\"model\":" + std::string(1000, '['), ErrorKind::kLimit},
      {"tokenizer.json", "{\"model\":{\"\xFF\":1}}", ErrorKind::kTokenizer},
      {"tokenizer.json", R"({"model":{"vocab":{"a":0,"a":1}}})", ErrorKind::kTokenizer},
      {"tokenizer.json", R"({"model":{"vocab":{"a":4611686018427387904}}})", ErrorKind::kTokenizer},
      {"tokenizer_config.json", "{", ErrorKind::kTokenizer},
      {"special_tokens_map.json", "[]", ErrorKind::kTokenizer},
      {"vocab.json", R"({"a":"b"})", ErrorKind::kTokenizer},
      {"added_tokens.json", R"({"a":1.5})", ErrorKind::kTokenizer},
      {"generation_config.json", "{", ErrorKind::kJson},
      {"generation_config.json", "[]", ErrorKind::kSchema},
      {"chat_template.json", R"({"a":1,"a":1})", ErrorKind::kDupKey},
      {"preprocessor_config.json", "{\"a\":\"\xFF\"}", ErrorKind::kUtf8},
      {"tokenizer_config.json", std::string(17 << 20, ' '), ErrorKind::kLimit},
  };
  for (const auto& [name, text, kind] : assets) {
    directory_.Write(name, text);
    EXPECT_THAT(Read(), IsKind(kind, HasSubstr(name))) << name << " " << text.substr(0, 50);
    directory_.Remove(name);
  }
  EXPECT_OK(Read());
}

TEST_F(HfDirectoryTest, AssetsStayInTheDirectory) {
  WriteSingle();
  directory_.Link("/etc/passwd", "README.md");
  EXPECT_THAT(Read(), IsKind(ErrorKind::kPath, HasSubstr("README.md")));
  directory_.Fifo("README.md");
  EXPECT_THAT(Read(), IsKind(ErrorKind::kIo, HasSubstr("README.md")));
}

TEST_F(HfDirectoryTest, LargeAssetsAreLimited) {
  WriteSingle();
  directory_.Write("tokenizer.model", "12345");
  LoadOptions options;
  options.limits.asset_file_bytes = 4;
  EXPECT_THAT(ReadHfDirectory(PosixFileSystem(), directory_.path(), options),
              IsKind(ErrorKind::kLimit, HasSubstr("asset_file_bytes")));
}

TEST_F(HfDirectoryTest, NamesThatDifferByCaseAreNoted) {
  WriteSingle();
  directory_.Write("tokenizer.json", kTokenizer);
  directory_.Write("TOKENIZER.json", "{}");

  ASSERT_OK_AND_ASSIGN(const HfDirectory hf, Read());

  EXPECT_THAT(hf.notes, Contains(HasSubstr("differ only by case")));
  EXPECT_THAT(ReadStrictly(), IsKind(ErrorKind::kAmbiguous, HasSubstr("differ only by case")));
}

}  // namespace
}  // namespace waypoint
