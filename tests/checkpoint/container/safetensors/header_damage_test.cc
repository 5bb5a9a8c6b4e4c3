// Every cut and every flipped bit of small good files: an error, or the same tensors.

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "checkpoint/container/safetensors/header.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/safetensors_bytes.h"
#include "tests/testing/status_matchers.h"

namespace waypoint {
namespace {

absl::StatusOr<SafetensorsHeader> Parse(absl::string_view file) {
  return ParseSafetensorsHeader(file, static_cast<int64_t>(file.size()), "a", Limits());
}

std::vector<std::string> GoodFiles() {
  return {
      SafetensorsBytes("{}", ""),
      FloatFile({{"t", 4}}),
      FloatFile({{"model.layers.0.weight", 3}, {"empty", 0}, {"b", 1}}),
      SafetensorsBytes(R"({"__metadata__":{"format":"pt"},"x":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]}})" +
                           std::string(12, ' '),
                       SomeBytes(8)),
      SafetensorsBytes(
          R"( {"b":{"shape":[],"dtype":"I64","data_offsets":[3,11]},"é\n":{"dtype":"U8","shape":[3,1],"data_offsets":[0,3]}})",
          SomeBytes(11)),
  };
}

// What a reader may rely on, whatever the header says.
void ExpectSound(const SafetensorsHeader& header, size_t file_bytes) {
  int64_t end = header.data_begin;
  for (const SafetensorsEntry& entry : header.entries) {
    EXPECT_EQ(entry.begin, end);
    EXPECT_EQ(TensorBytes(entry.dtype, entry.shape).value(), entry.end - entry.begin);
    end = entry.end;
  }
  EXPECT_EQ(end, static_cast<int64_t>(file_bytes));
}

std::string Describe(const SafetensorsHeader& header, bool with_names) {
  std::string out = absl::StrCat(header.data_begin, " ", header.file_bytes);
  for (const SafetensorsEntry& entry : header.entries) {
    absl::StrAppend(&out, "|", with_names ? entry.name : "", " ", DTypeBits(entry.dtype), " ", ShapeString(entry.shape),
                    " ", entry.begin, " ", entry.end);
  }
  return out;
}

TEST(SafetensorsDamageTest, EveryCutIsAnError) {
  for (const std::string& file : GoodFiles()) {
    ASSERT_OK(Parse(file));
    for (size_t length = 0; length < file.size(); ++length) {
      EXPECT_FALSE(Parse(absl::string_view(file).substr(0, length)).ok()) << length << " of " << file;
    }
  }
}

// A header has no checksum: a flipped bit in a name is another name, and one dtype may become another of the same
// width.  Everything else must be noticed or not matter.
TEST(SafetensorsDamageTest, AFlippedBitMovesNoTensor) {
  int64_t refused = 0;
  for (const std::string& file : GoodFiles()) {
    ASSERT_OK_AND_ASSIGN(const SafetensorsHeader good, Parse(file));
    std::string damaged = file;
    for (size_t bit = 0; bit < 8 * file.size(); ++bit) {
      damaged[bit / 8] ^= static_cast<char>(1 << bit % 8);
      const absl::StatusOr<SafetensorsHeader> header = Parse(damaged);
      if (header.ok()) {
        ExpectSound(*header, file.size());
        // A flip inside of "__metadata__" makes a tensor of it, which has none of a tensor's fields: refused.
        EXPECT_EQ(Describe(*header, false), Describe(good, false)) << "bit " << bit << " of " << file;
      } else {
        EXPECT_NE(GetErrorKind(header.status()), ErrorKind::kUnknown);
        ++refused;
      }
      damaged[bit / 8] ^= static_cast<char>(1 << bit % 8);
    }
    EXPECT_EQ(damaged, file);
  }
  EXPECT_GT(refused, 2000);
}

TEST(SafetensorsDamageTest, EveryByteMayBeAnything) {
  for (const std::string& file : GoodFiles()) {
    for (size_t i = 0; i < file.size(); ++i) {
      for (const char value : {'\0', '\x7F', '\x80', '\xFF', '"', '{', '}', '[', ']', ',', '9', '-', '\\'}) {
        std::string damaged = file;
        damaged[i] = value;
        const absl::StatusOr<SafetensorsHeader> header = Parse(damaged);
        if (header.ok()) {
          ExpectSound(*header, file.size());
        }
      }
    }
  }
}

TEST(SafetensorsDamageTest, SplicedFilesAreSoundOrRefused) {
  const std::vector<std::string> files = GoodFiles();
  for (const std::string& head : files) {
    for (const std::string& tail : files) {
      for (size_t cut = 0; cut <= head.size(); ++cut) {
        const std::string spliced = head.substr(0, cut) + tail.substr(std::min(cut, tail.size()));
        const absl::StatusOr<SafetensorsHeader> header = Parse(spliced);
        if (header.ok()) {
          ExpectSound(*header, spliced.size());
        }
      }
    }
  }
}

// Each number of a header replaced by the edges of integers.
TEST(SafetensorsDamageTest, EveryNumberMayBeAnything) {
  const std::string header = R"({"a":{"dtype":"F32","shape":[#,#],"data_offsets":[#,#]},)"
                             R"("b":{"dtype":"U8","shape":[#],"data_offsets":[#,#]}})";
  const std::vector<std::string> good = {"2", "3", "0", "24", "5", "24", "29"};
  const auto fill = [&header](const std::vector<std::string>& numbers) {
    std::string out;
    size_t next = 0;
    for (const char c : header) {
      c == '#' ? out.append(numbers[next++]) : out.append(1, c);
    }
    return SafetensorsBytes(out, SomeBytes(29));
  };
  ASSERT_OK(Parse(fill(good)));
  for (size_t i = 0; i < good.size(); ++i) {
    for (const char* edge :
         {"0", "1", "2147483647", "2147483648", "4294967295", "4294967296", "9007199254740993", "9223372036854775807",
          "9223372036854775808", "18446744073709551615", "18446744073709551616"}) {
      if (good[i] == edge) {
        continue;
      }
      std::vector<std::string> numbers = good;
      numbers[i] = edge;
      EXPECT_FALSE(Parse(fill(numbers)).ok()) << i << " " << edge;
    }
  }
}

}  // namespace
}  // namespace waypoint
