#include "checkpoint/container/safetensors/header.h"

#include <string>
#include <vector>

#include "absl/strings/match.h"
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
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

constexpr absl::string_view kGood = R"({"t":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}})";

absl::StatusOr<SafetensorsHeader> Parse(absl::string_view file) {
  return ParseSafetensorsHeader(file, static_cast<int64_t>(file.size()), "dir/a.safetensors", Limits());
}

// A header before as many bytes of data.
absl::StatusOr<SafetensorsHeader> ParseHeader(absl::string_view header, size_t data_bytes = 16) {
  return Parse(SafetensorsBytes(header, SomeBytes(data_bytes)));
}

// kGood with one part replaced.
std::string Edit(absl::string_view from, absl::string_view to) {
  const std::string out = absl::StrReplaceAll(kGood, {{from, to}});
  EXPECT_NE(out, kGood);
  return out;
}

std::string Entry(absl::string_view name, absl::string_view dtype, absl::string_view shape, absl::string_view offsets) {
  return absl::StrCat("\"", name, "\":{\"dtype\":\"", dtype, "\",\"shape\":", shape, ",\"data_offsets\":", offsets,
                      "}");
}

std::string Times(absl::string_view piece, int times) {
  std::string out;
  for (int i = 0; i < times; ++i) {
    out.append(piece.data(), piece.size());
  }
  return out;
}

TEST(SafetensorsHeaderTest, OffsetsAreThoseOfTheFile) {
  ASSERT_OK_AND_ASSIGN(const SafetensorsHeader header, ParseHeader(R"({"__metadata__":{"format":"pt","k":"é"},)" +
                                                                   Entry("b", "BF16", "[2,3]", "[4,16]") + "," +
                                                                   Entry("a", "U8", "[4]", "[0,4]") + "}"));

  EXPECT_THAT(header.metadata, ElementsAre(Pair("format", "pt"), Pair("k", "é")));
  ASSERT_EQ(header.entries.size(), 2u);
  EXPECT_EQ(header.entries[0].name, "a");
  EXPECT_EQ(header.entries[0].begin, header.data_begin);
  EXPECT_EQ(header.entries[1].name, "b");
  EXPECT_EQ(header.entries[1].dtype, DType::kBF16);
  EXPECT_THAT(header.entries[1].shape, ElementsAre(2, 3));
  EXPECT_EQ(header.entries[1].begin, header.data_begin + 4);
  EXPECT_EQ(header.entries[1].end, header.file_bytes);
}

TEST(SafetensorsHeaderTest, AcceptsWhatTheFormatAllows) {
  const std::vector<std::pair<std::string, size_t>> headers = {
      {"{}", 0},
      {"  \n\t{}  ", 0},
      {"{}" + std::string(4094, ' '), 0},
      {R"({"__metadata__":{}})", 0},
      {"{" + Entry("t", "F32", "[]", "[0,4]") + "}", 4},
      {"{" + Entry("t", "F32", "[0]", "[0,0]") + "}", 0},
      {"{" + Entry("t", "F32", "[3,0,7]", "[0,0]") + "," + Entry("u", "F32", "[1]", "[0,4]") + "," +
           Entry("v", "F32", "[0]", "[4,4]") + "}",
       4},
      {"{" + Entry("", "U8", "[1]", "[0,1]") + "}", 1},
      {"{" + Entry("../../etc/passwd", "U8", "[1]", "[0,1]") + "}", 1},
      {"{" + Entry(std::string(65536, 'n'), "U8", "[1]", "[0,1]") + "}", 1},
      {"{" + Entry("\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\ud83d\\ude00", "U8", "[1]", "[0,1]") + "}", 1},
      {"{" + Entry("t", "U8", "[1" + Times(",1", 63) + "]", "[0,1]") + "}", 1},
      {R"({"t":{"shape":[1],"x":{"y":[{"dtype":[]}],"z":null},"data_offsets":[0,1],"dtype":"U8"}})", 1},
      {"{" + Entry("t", "F4", "[4]", "[0,2]") + "," + Entry("u", "F6_E2M3", "[4]", "[2,5]") + "}", 5},
  };
  for (const auto& [header, data_bytes] : headers) {
    EXPECT_OK(ParseHeader(header, data_bytes)) << header;
  }
}

TEST(SafetensorsHeaderTest, KnowsEveryDType) {
  for (int i = 1; i <= static_cast<int>(DType::kF4); ++i) {
    const DType dtype = static_cast<DType>(i);
    const int64_t bytes = DTypeBits(dtype);  // of 8 elements
    ASSERT_OK_AND_ASSIGN(
        const SafetensorsHeader header,
        ParseHeader("{" + Entry("t", std::string(DTypeName(dtype)), "[2,4]", absl::StrCat("[0,", bytes, "]")) + "}",
                    bytes));
    EXPECT_EQ(header.entries[0].dtype, dtype);
  }
}

TEST(SafetensorsHeaderTest, NeedsALength) {
  for (int length = 0; length < 8; ++length) {
    EXPECT_THAT(Parse(std::string(length, '\2')), IsKind(ErrorKind::kTruncated, HasSubstr("dir/a.safetensors")));
  }
  EXPECT_THAT(Parse(std::string(8, '\0')), IsKind(ErrorKind::kJson));
}

TEST(SafetensorsHeaderTest, LengthMustFitTheFileAndTheLimit) {
  const std::string data = SomeBytes(16);
  const uint64_t n = kGood.size();
  EXPECT_THAT(Parse(SafetensorsBytes(n + 17, kGood, data)), IsKind(ErrorKind::kTruncated));
  EXPECT_THAT(Parse(SafetensorsBytes(n - 1, kGood, data)), IsKind(ErrorKind::kJson));
  EXPECT_THAT(Parse(SafetensorsBytes(n + 1, kGood, data)), IsKind(ErrorKind::kJson));
  EXPECT_THAT(Parse(SafetensorsBytes(100000000, kGood, data)), IsKind(ErrorKind::kTruncated));
  for (const uint64_t huge : {uint64_t{100000001}, uint64_t{1} << 32, uint64_t{INT64_MAX}, uint64_t{1} << 63,
                              UINT64_MAX - 7, UINT64_MAX, uint64_t{0x37} << 56}) {
    EXPECT_THAT(Parse(SafetensorsBytes(huge, kGood, data)),
                IsKind(ErrorKind::kLimit, HasSubstr("safetensors_header_bytes")))
        << huge;
  }
}

TEST(SafetensorsHeaderTest, DataMustEndWithTheFile) {
  EXPECT_THAT(ParseHeader(kGood, 15), IsKind(ErrorKind::kTruncated, HasSubstr("\"t\"")));
  EXPECT_THAT(ParseHeader(kGood, 0), IsKind(ErrorKind::kTruncated));
  EXPECT_THAT(ParseHeader(kGood, 17), IsKind(ErrorKind::kTrailing, HasSubstr("1 bytes")));
  EXPECT_THAT(Parse(SafetensorsBytes(kGood, SomeBytes(16)) + "PK\3\4 and an archive"), IsKind(ErrorKind::kTrailing));
  EXPECT_THAT(ParseHeader("{}", 1), IsKind(ErrorKind::kTrailing));
  EXPECT_THAT(ParseHeader(absl::StrCat("{", Entry("t", "U8", "[1125899906842624]", "[0,1125899906842624]"), "}")),
              IsKind(ErrorKind::kTruncated));
}

TEST(SafetensorsHeaderTest, NamesFilesOfOtherKinds) {
  const std::vector<std::pair<std::string, std::string>> files = {
      {"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123\n", "git-lfs"},
      {"<!DOCTYPE html><html><body>404</body></html>", "web page"},
      {"<HTML><body>502</body></HTML>", "web page"},
      {std::string("PK\3\4\0\0\10\10\0\0\0\0archive/data.pkl", 28), "zip"},
      {std::string("PK\3\4\0\0\0\0\0\0\0\0archive/data.pkl", 28), "zip"},
      {"\x80\x02"
       "cposix\nsystem\n(S'id'\ntR.",
       "pickle"},
      {std::string("GGUF\3\0\0\0\377\377\377\377\377\377\377\377", 16), "GGUF"},
      {std::string("\x7F"
                   "ELF\2\1\1\0\0\0\0\0\0\0\0\0",
                   16),
       "ELF"},
      {std::string("\x1F\x8B\10\0\0\0\0\0\0\3\0\0", 12), "gzip"},
      {"{\"error\": \"not found\"}", "JSON"},
  };
  for (const auto& [bytes, kind] : files) {
    EXPECT_THAT(Parse(bytes), IsKind(ErrorKind::kHeader, HasSubstr(kind))) << kind;
  }
}

// The first bytes of a pickle and of gzip are also plausible lengths.
TEST(SafetensorsHeaderTest, AnUnluckyLengthIsNoOtherKind) {
  for (const size_t length : {size_t{0x280}, size_t{0x88B1F}}) {
    std::string header(length, ' ');
    header.replace(0, kGood.size(), std::string(kGood));
    EXPECT_OK(ParseHeader(header));
    const std::string file = SafetensorsBytes(header, SomeBytes(16));
    EXPECT_THAT(Parse(file.substr(0, 100)), IsKind(ErrorKind::kTruncated));
  }
}

TEST(SafetensorsHeaderTest, HeaderMustBeUtf8AndJson) {
  for (const char* header : {"\xFF", "{\"\xC0\x80\":1}", "{\"\xED\xA0\x80\":{}}", "{\"t\xE4\xB8\":{}}"}) {
    EXPECT_THAT(ParseHeader(header), IsKind(ErrorKind::kUtf8, HasSubstr("dir/a.safetensors"))) << header;
  }
  for (const std::string& header :
       {std::string("{"), std::string("hello"), std::string("{\"__metadata__\":{},}"), std::string("{'t':1}"),
        std::string("{/*x*/}"), std::string("{}{}"), std::string("{} x"), std::string("{}\0\0\0\0\0\0", 8),
        std::string("{t:1}"), std::string("{\"\\x41\":1}"), std::string("{\"a\1b\":{}}"), Edit("[4]", "[NaN]"),
        Edit("\"t\"", "\"\\ud800\""), Edit("[4]", "[1e999]"), Edit("[4]", "[1e2147483647]"),
        Edit("[4]", "[" + std::string(10000, '9') + "]"), std::string(kGood.substr(0, 30)) + std::string(100, '\0')}) {
    EXPECT_THAT(ParseHeader(header), IsKind(ErrorKind::kJson, HasSubstr("dir/a.safetensors"))) << header.substr(0, 80);
  }
}

TEST(SafetensorsHeaderTest, NestingIsLimitedEverywhere) {
  for (const std::string& header : {"{\"t\":" + Times("[", 200000), Times("{\"a\":", 100000), Times("[", 1000000),
                                    Edit("[0,16]", "[0,16],\"x\":" + Times("[", 5000) + Times("]", 5000))}) {
    EXPECT_THAT(ParseHeader(header), IsKind(ErrorKind::kLimit, HasSubstr("json_depth"))) << header.substr(0, 80);
  }
}

TEST(SafetensorsHeaderTest, FieldsHaveTheirTypes) {
  std::vector<std::string> headers = {"null", "[]", "\"x\"", "7", "true", "[{}]"};
  for (const char* shape : {"[2.0,2]", "[-4]", "[-4,-1]", "[\"4\"]", "[true]", "[null]", "[[4]]", "{\"0\":4}", "4",
                            "[-0]", "null", "\"4\"", "[-99999999999999999999]", "[{}]"}) {
    headers.push_back(Edit("[4]", shape));
  }
  for (const char* offsets : {"[0,16,16]", "[0.0,16.0]", "[-16,0]", "[\"0\",\"16\"]", "[]", "[16]", "16", "null",
                              "{\"begin\":0,\"end\":16}", "[[0,16]]"}) {
    headers.push_back(Edit("[0,16]", offsets));
  }
  for (const char* dtype : {"5", "null", "[\"F32\"]", "{}"}) {
    headers.push_back(Edit("\"F32\"", dtype));
  }
  for (const char* field : {R"("dtype":"F32",)", R"("shape":[4],)", R"(,"data_offsets":[0,16])"}) {
    headers.push_back(Edit(field, ""));
  }
  for (const char* tensor : {"[]", "\"F32\"", "3", "null", "true"}) {
    headers.push_back(absl::StrCat("{\"t\":", tensor, "}"));
  }
  for (const char* metadata : {R"({"a":1})", R"({"a":{}})", R"({"a":null})", R"({"a":["b"]})", "null", "[]", "\"pt\"",
                               R"({"dtype":"F32","shape":[4],"data_offsets":[0,16]})"}) {
    headers.push_back(absl::StrCat("{\"__metadata__\":", metadata, "}"));
  }
  headers.push_back(Edit("\"t\"", "\"a\\u0000b\""));
  for (const std::string& header : headers) {
    EXPECT_THAT(ParseHeader(header), IsKind(ErrorKind::kSchema, HasSubstr("dir/a.safetensors"))) << header;
  }
}

TEST(SafetensorsHeaderTest, MessagesNameTensorAndField) {
  EXPECT_THAT(ParseHeader(Edit("[4]", "[true]")),
              IsKind(ErrorKind::kSchema, AllOf(HasSubstr("tensor \"t\""), HasSubstr("shape"), HasSubstr("boolean"))));
  EXPECT_THAT(ParseHeader(R"({"__metadata__":{"k":1}})"), IsKind(ErrorKind::kSchema, HasSubstr("\"k\"")));
}

TEST(SafetensorsHeaderTest, DTypeMustBeKnown) {
  for (const std::string& dtype : {std::string("F128"), std::string("f32"), std::string("float32"), std::string(),
                                   std::string("I4"), std::string("INVALID"), std::string(100000, 'F')}) {
    EXPECT_THAT(ParseHeader(Edit("F32", dtype)), IsKind(ErrorKind::kDType, HasSubstr("tensor \"t\"")))
        << dtype.substr(0, 20);
  }
}

TEST(SafetensorsHeaderTest, NothingIsThereTwice) {
  const std::string entry = Entry("t", "F32", "[4]", "[0,16]");
  for (const std::string& header :
       {"{" + entry + "," + entry + "}", "{" + entry + "," + Entry("\\u0074", "F32", "[4]", "[0,16]") + "}",
        "{" + Entry("t", "F32", "[0]", "[0,0]") + "," + entry + "}",
        std::string(R"({"__metadata__":{"a":"1"},"__metadata__":{"a":"2"}})"),
        std::string(R"({"__metadata__":{"a":"1","a":"2"}})"), Edit("\"dtype\":", "\"dtype\":\"I32\",\"dtype\":"),
        Edit("\"shape\":", "\"shape\":[2,2],\"shape\":"),
        Edit("\"data_offsets\":", "\"data_offsets\":[0,16],\"data_offsets\":")}) {
    EXPECT_THAT(ParseHeader(header), IsKind(ErrorKind::kDupKey)) << header;
  }
}

TEST(SafetensorsHeaderTest, TensorsCoverTheData) {
  const std::vector<std::pair<std::string, std::string>> headers = {
      {Edit("[0,16]", "[8,24]"), "first tensor must begin at 0"},
      {Edit("[0,16]", "[16,0]"), "backwards"},
      {Edit("[0,16]", "[1000,1016]"), "begins at 1000"},
      {"{" + Entry("a", "F32", "[4]", "[0,16]") + "," + Entry("b", "F32", "[4]", "[0,16]") + "}", "inside \"a\""},
      {"{" + Entry("a", "F32", "[4]", "[0,16]") + "," + Entry("b", "F32", "[4]", "[15,31]") + "}", "inside \"a\""},
      {"{" + Entry("a", "F32", "[8]", "[0,32]") + "," + Entry("b", "F32", "[4]", "[8,24]") + "}", "inside \"a\""},
      {"{" + Entry("a", "F32", "[1]", "[0,4]") + "," + Entry("b", "F32", "[2]", "[8,16]") + "}", "gap behind \"a\""},
      {"{" + Entry("a", "F32", "[4]", "[0,16]") + "," + Entry("z", "F32", "[0]", "[8,8]") + "}", "inside \"a\""},
      {"{" + Entry("a", "F32", "[4]", "[0,16]") + "," + Entry("z", "F32", "[0]", "[20,20]") + "}", "gap behind \"a\""},
  };
  for (const auto& [header, message] : headers) {
    EXPECT_THAT(ParseHeader(header), IsKind(ErrorKind::kOffsets, HasSubstr(message))) << header;
  }
}

TEST(SafetensorsHeaderTest, SizesMustAgree) {
  for (const std::string& header :
       {Edit("[0,16]", "[0,17]"), Edit("F32", "F64"), Edit("[4]", "[]"), Edit("[4]", "[4,2]"),
        "{" + Entry("t", "F6_E2M3", "[3]", "[0,3]") + "}", "{" + Entry("t", "F4", "[4]", "[0,4]") + "}",
        "{" + Entry("t", "F4", "[3]", "[0,2]") + "}"}) {
    EXPECT_THAT(ParseHeader(header), IsKind(ErrorKind::kSizeMismatch, HasSubstr("tensor \"t\""))) << header;
  }
}

TEST(SafetensorsHeaderTest, SizesMustNotOverflow) {
  for (const std::string& header :
       {Edit("[4]", "[4294967296,4294967296]"), Edit("[4]", "[9223372036854775809,2]"),
        Edit("[4]", "[4611686018427387904]"), "{" + Entry("t", "U8", "[2305843009213693952]", "[0,0]") + "}",
        Edit("[4]", "[9223372036854775808,0]"), Edit("[4]", "[4611686018427387904,4611686018427387904,0]"),
        Edit("[4]", "[0,4611686018427387904,4611686018427387904]"), Edit("[4]", "[18446744073709551620]"),
        Edit("[0,16]", "[0,18446744073709551615]"), Edit("[0,16]", "[0,18446744073709551632]"),
        "{" + Entry("t", "U8", "[18446744073709551608]", "[0,18446744073709551608]") + "}",
        Edit("[4]", "[2" + Times(",2", 63) + "]")}) {
    EXPECT_THAT(ParseHeader(header), IsKind(ErrorKind::kOverflow, HasSubstr("\"t\""))) << header;
  }
}

TEST(SafetensorsHeaderTest, LimitsAreChecked) {
  EXPECT_THAT(ParseHeader(Edit("[4]", "[1" + Times(",1", 100000) + "]")),
              IsKind(ErrorKind::kLimit, HasSubstr("tensor_rank")));
  EXPECT_THAT(ParseHeader(Edit("\"t\"", "\"" + std::string(65537, 'n') + "\"")),
              IsKind(ErrorKind::kLimit, HasSubstr("tensor_name_bytes")));
  Limits limits;
  limits.safetensors_tensors = 1;
  limits.safetensors_metadata_entries = 1;
  limits.safetensors_dimensions = 2;
  const auto parse = [&limits](const std::string& header) {
    const std::string file = SafetensorsBytes(header, "");
    return ParseSafetensorsHeader(file, file.size(), "a", limits);
  };
  EXPECT_OK(parse(R"({"__metadata__":{"a":"b"},)" + Entry("a", "U8", "[0]", "[0,0]") + "}"));
  EXPECT_THAT(parse("{" + Entry("a", "U8", "[0]", "[0,0]") + "," + Entry("b", "U8", "[0]", "[0,0]") + "}"),
              IsKind(ErrorKind::kLimit, HasSubstr("safetensors_tensors")));
  EXPECT_THAT(parse(R"({"__metadata__":{"a":"b","c":"d"}})"),
              IsKind(ErrorKind::kLimit, HasSubstr("safetensors_metadata_entries")));
  EXPECT_OK(parse("{" + Entry("a", "U8", "[0,1]", "[0,0]") + "}"));
  EXPECT_THAT(parse("{" + Entry("a", "U8", "[0,1,1]", "[0,0]") + "}"),
              IsKind(ErrorKind::kLimit, HasSubstr("safetensors_dimensions")));
}

// Kinds of error have an order, whatever comes first in the header.
TEST(SafetensorsHeaderTest, ErrorsHaveAnOrder) {
  const std::string schema = Entry("a", "F32", "true", "[0,4]");
  const std::string dtype = Entry("b", "F33", "[1]", "[0,4]");
  const std::string overflow = Entry("c", "F32", "[9223372036854775808]", "[0,4]");
  const std::string offsets = Entry("d", "F32", "[1]", "[4,0]");
  const std::string size = Entry("e", "F32", "[2]", "[0,4]");
  EXPECT_THAT(ParseHeader("{" + size + "," + offsets + "," + overflow + "," + dtype + "," + schema + ",}"),
              IsKind(ErrorKind::kJson));
  EXPECT_THAT(ParseHeader("{" + size + "," + offsets + "," + overflow + "," + dtype + "," + schema + "}"),
              IsKind(ErrorKind::kSchema));
  EXPECT_THAT(ParseHeader("{" + size + "," + offsets + "," + overflow + "," + dtype + "}"), IsKind(ErrorKind::kDType));
  EXPECT_THAT(ParseHeader("{" + size + "," + offsets + "," + overflow + "}"), IsKind(ErrorKind::kOverflow));
  EXPECT_THAT(ParseHeader("{" + size + "," + offsets + "}"), IsKind(ErrorKind::kOffsets));
  EXPECT_THAT(ParseHeader("{" + size + "}", 5), IsKind(ErrorKind::kSizeMismatch));
}

TEST(SafetensorsHeaderTest, AHundredThousandTensorsAreFast) {
  std::vector<FloatTensor> tensors;
  for (int i = 0; i < 100000; ++i) {
    tensors.push_back({absl::StrCat("model.layers.", 99999 - i, ".weight"), i % 2});
  }
  ASSERT_OK_AND_ASSIGN(const SafetensorsHeader header, Parse(FloatFile(tensors)));
  EXPECT_EQ(header.entries.size(), tensors.size());
}

TEST(SafetensorsHeaderTest, APrefixOfTheFileIsEnough) {
  const std::string prefix = SafetensorsBytes(kGood, "");
  EXPECT_OK(ParseSafetensorsHeader(prefix, prefix.size() + 16, "a", Limits()));
  EXPECT_THAT(ParseSafetensorsHeader(prefix.substr(0, 40), prefix.size() + 16, "a", Limits()),
              IsKind(ErrorKind::kTruncated));
}

TEST(ReadSafetensorsHeaderTest, ReadsAFile) {
  const TempDirectory directory;
  directory.Write("good", FloatFile({{"x", 3}, {"y", 2}}));
  directory.Write("empty", "");
  directory.Write("tiny", SafetensorsBytes("{}", ""));
  directory.Write("lfs", "version https://git-lfs.github.com/spec/v1\n");
  directory.Write("cut", FloatFile({{"x", 3}}).substr(0, 40));
  const auto read = [&directory](absl::string_view name) -> absl::StatusOr<SafetensorsHeader> {
    const auto file = PosixFileSystem().OpenForRead(directory.Path(name), OpenOptions());
    return ReadSafetensorsHeader(**file, Limits());
  };

  ASSERT_OK_AND_ASSIGN(const SafetensorsHeader header, read("good"));
  EXPECT_EQ(header.entries.size(), 2u);
  EXPECT_EQ(header.entries[1].end, header.file_bytes);
  EXPECT_OK(read("tiny"));
  EXPECT_THAT(read("empty"), IsKind(ErrorKind::kTruncated, HasSubstr("/empty\"")));
  EXPECT_THAT(read("lfs"), IsKind(ErrorKind::kHeader, HasSubstr("/lfs\"")));
  EXPECT_THAT(read("cut"), IsKind(ErrorKind::kTruncated, HasSubstr("/cut\"")));
}

TEST(BuildSafetensorsHeaderTest, BytesAreThoseOfTheReference) {
  std::vector<SafetensorsEntry> entries(2);
  entries[0].name = "b\"\xC3\xA9";
  entries[0].dtype = DType::kBF16;
  entries[0].shape = {2, 3};
  entries[1].name = "a";
  entries[1].dtype = DType::kF32;

  const std::string bytes = BuildSafetensorsHeader(&entries, {{"format", "pt"}, {"a", "\n"}});

  EXPECT_EQ(bytes.substr(8),
            R"({"__metadata__":{"a":"\n","format":"pt"},"b\"é":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},)"
            R"("a":{"dtype":"F32","shape":[],"data_offsets":[12,16]}}    )");
  EXPECT_EQ(bytes.size() % 8, 0u);
  EXPECT_EQ(entries[0].begin, static_cast<int64_t>(bytes.size()));
  EXPECT_EQ(entries[1].end, static_cast<int64_t>(bytes.size()) + 16);
}

TEST(BuildSafetensorsHeaderTest, ReadsBackAtEveryAlignment) {
  for (const int64_t alignment : {1, 8, 64, 4096}) {
    std::vector<SafetensorsEntry> entries(3);
    for (int i = 0; i < 3; ++i) {
      entries[i].name = absl::StrCat("t", i);
      entries[i].dtype = DType::kI16;
      entries[i].shape = {i, 5};
    }
    const std::string bytes = BuildSafetensorsHeader(&entries, {}, alignment);
    ASSERT_OK_AND_ASSIGN(const SafetensorsHeader header,
                         ParseSafetensorsHeader(bytes, bytes.size() + 30, "a", Limits()));
    EXPECT_EQ(header.data_begin, static_cast<int64_t>(bytes.size()));
    EXPECT_EQ(header.data_begin % alignment, 0);
    ASSERT_EQ(header.entries.size(), 3u);
    for (int i = 0; i < 3; ++i) {
      EXPECT_EQ(header.entries[i].name, entries[i].name);
      EXPECT_EQ(header.entries[i].begin, entries[i].begin);
      EXPECT_EQ(header.entries[i].end, entries[i].end);
    }
  }
}

TEST(BuildSafetensorsHeaderTest, NoTensorsIsAFile) {
  std::vector<SafetensorsEntry> entries;
  EXPECT_EQ(BuildSafetensorsHeader(&entries, {}), SafetensorsBytes("{}      ", ""));
}

}  // namespace
}  // namespace waypoint
