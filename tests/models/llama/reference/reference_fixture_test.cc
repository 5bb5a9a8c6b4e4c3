// Checkpoints laid out as Meta's code reads them, against the twins that transformers' own script made of them.

#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/checkpointer/checkpointer.h"
#include "checkpoint/storage/memory_file_system.h"
#include "checkpoint/tensor/cast.h"
#include "gmock/gmock.h"
#include "models/llama/llama_format.h"
#include "models/llama/reference/reference_format.h"
#include "models/llama/reference/weights.h"
#include "tests/models/llama/reference/torch_files.h"
#include "tests/testing/fixture_copy.h"

namespace waypoint::models {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

class ReferenceFixtureTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    const std::string fixture = absl::StrCat("tests/testdata/fixtures/", GetParam());
    CopyDirectory(fixture + "/meta", fs_, "/meta");
    CopyDirectory(fixture + "/hf", fs_, "/hf");
  }

  OpenedCheckpoint Open(const std::string& path) {
    const auto format = DetectFormat(fs_, path);
    EXPECT_OK(format);
    auto opened = (*format)->Open(fs_, path, {});
    EXPECT_OK(opened);
    return opened.ok() ? *std::move(opened) : OpenedCheckpoint();
  }

  void Write(const OpenedCheckpoint& from, const std::string& to, const std::string& format,
             const FormatOptionValues& format_options = {}) {
    WriteOptions options;
    options.format = format;
    options.save.format_options = format_options;
    ASSERT_OK(WriteCheckpoint(fs_, to, options, from.metadata, *from.tensors, from.assets));
  }

  int64_t CountFiles(const std::string& directory) {
    int64_t count = 0;
    while (Exists(fs_, JoinPath(directory, ReferenceFileName(count))).value()) {
      ++count;
    }
    return count;
  }

  FileTensors File(const std::string& directory, int64_t file) {
    FileTensors tensors = ReadTorchTensors(fs_, JoinPath(directory, ReferenceFileName(file)));
    for (auto it = tensors.begin(); it != tensors.end();) {
      it = IsRotaryTable(it->first) ? tensors.erase(it) : std::next(it);
    }
    return tensors;
  }

  bool by_columns() const {
    return absl::StartsWith(GetParam(), "meta_llama1") || absl::StartsWith(GetParam(), "meta_llama2");
  }

  MemoryFileSystem fs_;
};

// transformers' script makes everything bfloat16.
std::vector<char> AsBFloat16(const TensorMeta& meta, const std::vector<char>& bytes) {
  std::vector<char> cast(meta.num_elements() * 2);
  CastElements(meta.dtype, bytes.data(), DType::kBF16, cast.data(), meta.num_elements());
  return cast;
}

TEST_P(ReferenceFixtureTest, IsTheTwin) {
  const OpenedCheckpoint meta = Open("/meta");
  const OpenedCheckpoint twin = Open("/hf");

  EXPECT_EQ(meta.metadata.external_format(), "reference");
  DecoderConfig config;
  DecoderConfig twin_config;
  ASSERT_TRUE(meta.metadata.model_config().UnpackTo(&config));
  ASSERT_TRUE(twin.metadata.model_config().UnpackTo(&twin_config));
  EXPECT_EQ(config.DebugString(), twin_config.DebugString());
  ASSERT_EQ(meta.tensors->manifest().size(), twin.tensors->manifest().size());
  for (int64_t i = 0; i < meta.tensors->manifest().size(); ++i) {
    const TensorMeta& tensor = meta.tensors->manifest()[i];
    const int64_t other = twin.tensors->manifest().Find(tensor.name);
    ASSERT_GE(other, 0) << tensor.name;
    ASSERT_OK_AND_ASSIGN(const std::vector<char> bytes, ReadWhole(*meta.tensors, i));
    EXPECT_EQ(AsBFloat16(tensor, bytes), ReadWhole(*twin.tensors, other).value()) << tensor.name;
  }
}

TEST_P(ReferenceFixtureTest, WritesTheTwinsHuggingFaceFiles) {
  Write(Open("/meta"), "/made", "llama");

  const OpenedCheckpoint made = Open("/made");
  const OpenedCheckpoint twin = Open("/hf");
  ASSERT_OK_AND_ASSIGN(const Json config, ParseJson(made.metadata.external_configs().at("config.json"), "made", {}));
  ASSERT_OK_AND_ASSIGN(const Json wanted, ParseJson(twin.metadata.external_configs().at("config.json"), "twin", {}));
  for (auto it = config.begin(); it != config.end(); ++it) {
    // Nothing tells Llama 1 from 2, and the twin of float16 is bfloat16.
    if (GetParam() == "meta_llama1_fp16" && (it.key() == "max_position_embeddings" || it.key() == "torch_dtype")) {
      continue;
    }
    EXPECT_EQ(*it, wanted[it.key()]) << it.key();
  }
  EXPECT_EQ(config.count("bos_token_id"), 1u);
  EXPECT_EQ(config.count("eos_token_id"), 1u);
}

TEST_P(ReferenceFixtureTest, ComesBackAsItWas) {
  Write(Open("/meta"), "/native", "native");
  Write(Open("/native"), "/again", "reference");

  EXPECT_EQ(ReadSmallFile(fs_, "/again/params.json", 1000, "test").value(),
            ReadSmallFile(fs_, "/meta/params.json", 1000, "test").value());
  ASSERT_EQ(CountFiles("/again"), CountFiles("/meta"));
  for (int64_t file = 0; file < CountFiles("/meta"); ++file) {
    EXPECT_TRUE(File("/again", file) == File("/meta", file)) << file;
  }
}

// The part of a matrix that file `file` of `files` holds, by plain loops.
FileTensor Slice(const FileTensor& whole, bool columns, int64_t file, int64_t files) {
  const int64_t rows = whole.shape[0];
  const int64_t width = whole.shape[1];
  const int64_t bytes = DTypeBytes(whole.dtype);
  FileTensor part = whole;
  part.bytes.clear();
  part.shape[columns ? 1 : 0] /= files;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = 0; column < width; ++column) {
      const int64_t position = columns ? column / part.shape[1] : row / part.shape[0];
      if (position == file) {
        const char* element = whole.bytes.data() + (row * width + column) * bytes;
        part.bytes.insert(part.bytes.end(), element, element + bytes);
      }
    }
  }
  return part;
}

TEST_P(ReferenceFixtureTest, TheTwinIsCutAsTheReferenceCodeCuts) {
  const OpenedCheckpoint twin = Open("/hf");
  DecoderConfig config;
  ASSERT_TRUE(twin.metadata.model_config().UnpackTo(&config));
  const int64_t kv_heads = config.decoder().fixed().mixer().attention().head_groups();
  Write(twin, "/1", "reference", {{"model-parallel", "1"}});
  const FileTensors whole = File("/1", 0);
  for (const int64_t files : {2, 4}) {
    const std::string directory = absl::StrCat("/", files);
    Write(twin, directory, "reference", {{"model-parallel", absl::StrCat(files)}});
    ASSERT_EQ(CountFiles(directory), files);
    for (int64_t file = 0; file < files; ++file) {
      const FileTensors found = File(directory, file);
      ASSERT_EQ(found.size(), whole.size());
      for (const auto& [name, tensor] : whole) {
        FileTensor wanted = tensor;
        if (absl::StrContains(name, "wk") || absl::StrContains(name, "wv")) {
          // More files than heads: each head in neighbouring files.
          const int64_t parts = std::min(files, kv_heads);
          wanted = Slice(tensor, false, file * parts / files, parts);
        } else if (absl::StrContains(name, "wo.") || absl::StrContains(name, "w2.") ||
                   (name == "tok_embeddings.weight" && by_columns())) {
          wanted = Slice(tensor, true, file, files);
        } else if (tensor.shape.size() == 2) {
          wanted = Slice(tensor, false, file, files);
        }
        EXPECT_TRUE(found.at(name) == wanted) << name << " in file " << file << " of " << files;
      }
    }
    // And back.
    const OpenedCheckpoint again = Open(directory);
    ASSERT_EQ(again.tensors->manifest().size(), twin.tensors->manifest().size());
    for (int64_t i = 0; i < twin.tensors->manifest().size(); ++i) {
      const int64_t other = again.tensors->manifest().Find(twin.tensors->manifest()[i].name);
      ASSERT_GE(other, 0);
      EXPECT_EQ(ReadWhole(*again.tensors, other).value(), ReadWhole(*twin.tensors, i).value());
    }
    if (files > kv_heads) {
      EXPECT_THAT(again.notes, Contains(HasSubstr("copies of each of 2")));
    }
  }
}

TEST_P(ReferenceFixtureTest, TheTwinBecomesMetasFiles) {
  if (GetParam() == "meta_llama1_fp16") {
    // The twin was rounded; the others are exact.
    EXPECT_EQ(Open("/hf").tensors->manifest()[0].dtype, DType::kBF16);
    return;
  }
  const int64_t files = CountFiles("/meta");
  Write(Open("/hf"), "/made", "reference", {{"model-parallel", absl::StrCat(files)}});
  for (int64_t file = 0; file < files; ++file) {
    EXPECT_TRUE(File("/made", file) == File("/meta", file)) << file;
  }
}

TEST_P(ReferenceFixtureTest, HeadsAreInterleavedThisWayAndNotTheOther) {
  const FileTensors meta = File("/meta", 0);
  const OpenedCheckpoint twin = Open("/hf");
  const FileTensor& query = meta.at("layers.1.attention.wq.weight");
  const int64_t index = twin.tensors->manifest().Find("decoder.1.mixer.query.weight");
  ASSERT_OK_AND_ASSIGN(const std::vector<char> wanted, ReadWhole(*twin.tensors, index));
  TensorMeta meta_of_query;
  meta_of_query.dtype = query.dtype;
  meta_of_query.shape = query.shape;
  const std::vector<char> rows = AsBFloat16(meta_of_query, query.bytes);

  constexpr int64_t kHeadSize = 16;
  const int64_t row_bytes = query.shape[1] * 2;
  int64_t right = 0;
  int64_t wrong = 0;
  for (int64_t row = 0; row < query.shape[0]; ++row) {
    const int64_t head = row / kHeadSize * kHeadSize;
    const int64_t channel = row % (kHeadSize / 2);
    const int64_t half = row % kHeadSize / (kHeadSize / 2);
    const auto equals = [&](int64_t other) {
      return std::memcmp(wanted.data() + row * row_bytes, rows.data() + other * row_bytes, row_bytes) == 0;
    };
    right += equals(head + 2 * channel + half);
    // The inverse, which is another permutation.
    wrong += equals(head + row % 2 * (kHeadSize / 2) + row % kHeadSize / 2);
  }
  EXPECT_EQ(right, query.shape[0]);
  EXPECT_LT(wrong, query.shape[0]);
}

INSTANTIATE_TEST_SUITE_P(Fixtures, ReferenceFixtureTest,
                         testing::Values("meta_llama1_fp16", "meta_llama2_bf16", "meta_llama2_gqa_bf16_mp2",
                                         "meta_llama31_bf16_mp2", "meta_llama3_bf16"),
                         [](const testing::TestParamInfo<std::string>& info) { return info.param; });

// fixture, name of its table.
class ReferenceRopeFreqsTest : public testing::TestWithParam<std::pair<const char*, const char*>> {};

TEST_P(ReferenceRopeFreqsTest, AreTheFixturesWhenAskedFor) {
  MemoryFileSystem fs;
  CopyDirectory(absl::StrCat("tests/testdata/fixtures/", GetParam().first, "/meta"), fs, "/meta");
  ASSERT_OK_AND_ASSIGN(const OpenedCheckpoint opened, NewReferenceFormat()->Open(fs, "/meta", {}));
  EXPECT_THAT(opened.notes, Contains(HasSubstr("rope.freqs\"")));
  WriteOptions options;
  options.format = "reference";
  options.save.format_options["emit-rope-freqs"] = "true";
  ASSERT_OK(WriteCheckpoint(fs, "/made", options, opened.metadata, *opened.tensors, {}));

  const FileTensor wanted = ReadTorchTensors(fs, "/meta/consolidated.00.pth").at(GetParam().second);
  const FileTensor found = ReadTorchTensors(fs, "/made/consolidated.00.pth").at("rope.freqs");
  ASSERT_EQ(found.dtype, DType::kF32);
  ASSERT_EQ(found.shape, wanted.shape);
  // The fixtures' went through bfloat16.
  std::vector<char> half(found.shape[0] * 2);
  CastElements(DType::kF32, found.bytes.data(), DType::kBF16, half.data(), found.shape[0]);
  std::vector<char> rounded(wanted.bytes.size());
  CastElements(DType::kBF16, half.data(), wanted.dtype, rounded.data(), found.shape[0]);
  EXPECT_EQ(rounded, wanted.bytes);
}

INSTANTIATE_TEST_SUITE_P(Fixtures, ReferenceRopeFreqsTest,
                         testing::Values(std::make_pair("meta_llama2_gqa_bf16_mp2", "rope.freqs"),
                                         std::make_pair("meta_llama1_fp16",
                                                        "layers.0.attention.inner_attention.rope.freqs")));

}  // namespace
}  // namespace waypoint::models
