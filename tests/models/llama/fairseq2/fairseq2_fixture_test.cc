// Files laid out as fairseq2 does, against the files of Meta's code and of Hugging Face that they were laid out from.

#include <map>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "checkpoint/checkpointer/checkpointer.h"
#include "checkpoint/storage/memory_file_system.h"
#include "gmock/gmock.h"
#include "models/llama/fairseq2/fairseq2_format.h"
#include "models/llama/llama_format.h"
#include "models/llama/reference/weights.h"
#include "tests/models/llama/reference/torch_files.h"
#include "tests/testing/directory_contents.h"
#include "tests/testing/fixture_copy.h"

namespace waypoint::models {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr char kFixtures[] = "tests/testdata/fixtures/";
// Of the tied fixture, whose twin is of Hugging Face only; its hidden layer is 172.
constexpr char kTiedParams[] =
    R"({"dim": 64, "n_layers": 3, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 320, "multiple_of": 4, )"
    R"("norm_eps": 1e-05, "rope_theta": 500000.0, "use_scaled_rope": true})";

struct Case {
  const char* name;
  const char* twin;
  int64_t ranks;
  bool tied;
};

class Fairseq2FixtureTest : public testing::TestWithParam<Case> {
 protected:
  // fairseq2 has no config beside the weights: /fs2 gets the twin's.
  void SetUp() override {
    CopyDirectory(absl::StrCat(kFixtures, GetParam().name, "/fairseq2"), fs_, "/fs2");
    const std::string twin = absl::StrCat(kFixtures, GetParam().twin);
    CopyDirectory(twin + "/hf", fs_, "/hf");
    if (GetParam().tied) {
      ASSERT_OK(WriteSmallFile(fs_, "/fs2/params.json", kTiedParams));
      load_ = {{"rope-factor", "32"}, {"tied", "yes"}};
      save_ = {{"rope-factor", "32"}};
    } else {
      CopyDirectory(twin + "/meta", fs_, "/meta");
      ASSERT_OK(WriteSmallFile(fs_, "/fs2/params.json", ReadContents(fs_, "/meta").at("params.json")));
    }
  }

  OpenedCheckpoint Open(const std::string& path, const FormatOptionValues& values = {}) {
    const auto format = DetectFormat(fs_, path);
    EXPECT_OK(format);
    if (!format.ok()) {
      return OpenedCheckpoint();
    }
    LoadOptions options;
    options.format_options = values;
    auto opened = (*format)->Open(fs_, path, options);
    EXPECT_OK(opened);
    return opened.ok() ? *std::move(opened) : OpenedCheckpoint();
  }

  void Write(const OpenedCheckpoint& from, const std::string& to, const std::string& format,
             const FormatOptionValues& values = {}) {
    WriteOptions options;
    options.format = format;
    options.save.format_options = values;
    ASSERT_OK(WriteCheckpoint(fs_, to, options, from.metadata, *from.tensors, from.assets));
  }

  void ExpectSameTensors(const OpenedCheckpoint& found, const OpenedCheckpoint& wanted) {
    ASSERT_EQ(found.tensors->manifest().size(), wanted.tensors->manifest().size());
    for (int64_t i = 0; i < wanted.tensors->manifest().size(); ++i) {
      const std::string& name = wanted.tensors->manifest()[i].name;
      const int64_t other = found.tensors->manifest().Find(name);
      ASSERT_GE(other, 0) << name;
      EXPECT_EQ(found.tensors->manifest()[other].dtype, wanted.tensors->manifest()[i].dtype) << name;
      EXPECT_EQ(ReadWhole(*found.tensors, other).value(), ReadWhole(*wanted.tensors, i).value()) << name;
    }
  }

  MemoryFileSystem fs_;
  FormatOptionValues load_;
  FormatOptionValues save_;
};

TEST_P(Fairseq2FixtureTest, IsTheTwin) {
  const OpenedCheckpoint found = Open("/fs2", load_);
  const OpenedCheckpoint twin = Open("/hf");

  EXPECT_EQ(found.metadata.external_format(), "fairseq2");
  DecoderConfig config;
  DecoderConfig twin_config;
  ASSERT_TRUE(found.metadata.model_config().UnpackTo(&config));
  ASSERT_TRUE(twin.metadata.model_config().UnpackTo(&twin_config));
  if (GetParam().tied) {
    // The twin's is 64, which Llama 3 code cannot be told.
    Rotary* rotary =
        twin_config.mutable_decoder()->mutable_fixed()->mutable_mixer()->mutable_attention()->mutable_rotary();
    rotary->mutable_llama3()->set_original_context_length(8192);
  }
  EXPECT_EQ(config.DebugString(), twin_config.DebugString());
  ExpectSameTensors(found, twin);
}

TEST_P(Fairseq2FixtureTest, ComesBackThroughNative) {
  const OpenedCheckpoint found = Open("/fs2", load_);
  Write(found, "/native", "native");
  Write(Open("/native"), "/again", "fairseq2", save_);

  EXPECT_EQ(ReadContents(fs_, "/again").at("params.json"), ReadContents(fs_, "/fs2").at("params.json"));
  EXPECT_EQ(ReadContents(fs_, "/again").size(), 2);
  const TorchContents listing = ReadListing(fs_, "/again/model.pt");
  std::map<std::string, std::string> values;
  for (const TorchValue& value : listing.values) {
    values[value.path] = value.text;
  }
  EXPECT_THAT(values, ElementsAre(std::make_pair("fs2", "True"), std::make_pair("model_key", "model")));
  EXPECT_EQ(listing.tensors.size(), 30);
  EXPECT_EQ(listing.storages.size(), GetParam().tied ? 29 : 30);
  const OpenedCheckpoint again = Open("/again", load_);
  EXPECT_EQ(again.metadata.model_config().value(), found.metadata.model_config().value());
  ExpectSameTensors(again, Open("/hf"));
}

// Files are renamed, each by itself: what fairseq2's own command does.
TEST_P(Fairseq2FixtureTest, BecomesMetasFiles) {
  if (GetParam().tied) {
    Write(Open("/fs2", load_), "/made", "reference", save_);
    const FileTensors file = ReadTorchTensors(fs_, "/made/consolidated.00.pth");
    EXPECT_TRUE(file.at("output.weight") == file.at("tok_embeddings.weight"));
    return;
  }
  Write(Open("/fs2"), "/made", "reference");
  EXPECT_EQ(ReadContents(fs_, "/made").size(), GetParam().ranks + 1);
  EXPECT_EQ(ReadContents(fs_, "/made").at("params.json"), ReadContents(fs_, "/meta").at("params.json"));
  for (int64_t file = 0; file < GetParam().ranks; ++file) {
    FileTensors wanted = ReadTorchTensors(fs_, JoinPath("/meta", ReferenceFileName(file)));
    wanted.erase("rope.freqs");
    EXPECT_TRUE(ReadTorchTensors(fs_, JoinPath("/made", ReferenceFileName(file))) == wanted) << file;
  }
}

INSTANTIATE_TEST_SUITE_P(Fixtures, Fairseq2FixtureTest,
                         testing::Values(Case{"fairseq2_llama2_bf16", "meta_llama2_bf16", 1, false},
                                         Case{"fairseq2_llama2_gqa_bf16_tp2", "meta_llama2_gqa_bf16_mp2", 2, false},
                                         Case{"fairseq2_llama31_bf16_tree", "meta_llama31_bf16_mp2", 2, false},
                                         Case{"fairseq2_llama32_tied_bf16", "llama32_tied_bf16", 1, true}),
                         [](const testing::TestParamInfo<Case>& info) { return info.param.name; });

class Fairseq2FilesTest : public testing::Test {
 protected:
  absl::StatusOr<OpenedCheckpoint> Open(const std::string& path, const FormatOptionValues& values = {}) {
    LoadOptions options;
    options.format_options = values;
    return NewFairseq2Format()->Open(fs_, path, options);
  }

  MemoryFileSystem fs_;
};

TEST_F(Fairseq2FilesTest, AreTheStateDictOfTheFixture) {
  CopyDirectory(absl::StrCat(kFixtures, "meta_llama2_bf16/hf"), fs_, "/hf");
  CopyDirectory(absl::StrCat(kFixtures, "fairseq2_llama2_bf16/fairseq2"), fs_, "/fs2");
  ASSERT_OK_AND_ASSIGN(const OpenedCheckpoint twin, NewLlamaFormat()->Open(fs_, "/hf", {}));
  WriteOptions options;
  options.format = "fairseq2";
  ASSERT_OK(WriteCheckpoint(fs_, "/made", options, twin.metadata, *twin.tensors, {}));

  EXPECT_TRUE(ReadTorchTensors(fs_, "/made/model.pt") == ReadTorchTensors(fs_, "/fs2/model.pt"));
  // Though its params.json is in the dialect of Llama 3.
  EXPECT_THAT(ReadContents(fs_, "/made").at("params.json"), HasSubstr("use_scaled_rope"));
  ASSERT_OK_AND_ASSIGN(const OpenedCheckpoint made, Open("/made"));
  EXPECT_THAT(made.metadata.external_configs().at("config.json"), HasSubstr("\"max_position_embeddings\": 4096"));
}

TEST_F(Fairseq2FilesTest, AreThePiecesOfTheFixture) {
  CopyDirectory(absl::StrCat(kFixtures, "meta_llama2_gqa_bf16_mp2/hf"), fs_, "/hf");
  CopyDirectory(absl::StrCat(kFixtures, "fairseq2_llama2_gqa_bf16_tp2/fairseq2"), fs_, "/fs2");
  ASSERT_OK_AND_ASSIGN(const OpenedCheckpoint twin, NewLlamaFormat()->Open(fs_, "/hf", {}));
  WriteOptions options;
  options.format = "fairseq2";
  options.save.format_options["model-parallel"] = "2";
  ASSERT_OK(WriteCheckpoint(fs_, "/made", options, twin.metadata, *twin.tensors, {}));

  for (const char* name : {"model.0.pt", "model.1.pt"}) {
    const FileTensors made = ReadTorchTensors(fs_, JoinPath("/made", name));
    FileTensors wanted;
    for (const auto& [key, tensor] : ReadTorchTensors(fs_, JoinPath("/fs2", name))) {
      if (absl::StartsWith(key, "weights.")) {
        wanted[absl::StrCat("model.", absl::StripPrefix(key, "weights."))] = tensor;
      }
    }
    EXPECT_TRUE(made == wanted) << name;
  }
}

TEST_F(Fairseq2FilesTest, WhatIsNoModelIsLeftBehindByName) {
  CopyDirectory(absl::StrCat(kFixtures, "fairseq2_llama2_gqa_bf16_tp2/fairseq2"), fs_, "/fs2");
  CopyDirectory(absl::StrCat(kFixtures, "meta_llama2_gqa_bf16_mp2/meta"), fs_, "/meta");
  ASSERT_OK(WriteSmallFile(fs_, "/fs2/params.json", ReadContents(fs_, "/meta").at("params.json")));
  ASSERT_OK_AND_ASSIGN(const OpenedCheckpoint opened, Open("/fs2"));

  EXPECT_THAT(opened.notes, Contains(HasSubstr("\"optimizer\" (4 tensors), \"step_nr\"")));
  EXPECT_THAT(opened.notes, Not(Contains(HasSubstr("model_key"))));
}

// step_N, step_N/model: the same.
TEST_F(Fairseq2FilesTest, ATreeIsFoundFromAboveToo) {
  const std::string tree = absl::StrCat(kFixtures, "fairseq2_llama31_bf16_tree/fairseq2");
  CopyDirectory(tree, fs_, "/step_7");
  CopyDirectory(tree + "/model", fs_, "/tree");
  CopyDirectory(absl::StrCat(kFixtures, "meta_llama31_bf16_mp2/meta"), fs_, "/meta");
  for (const char* path : {"/step_7", "/step_7/model", "/tree"}) {
    ASSERT_OK_AND_ASSIGN(const bool fits, NewFairseq2Format()->Probe(fs_, path));
    EXPECT_TRUE(fits) << path;
    EXPECT_THAT(Open(path), IsKind(ErrorKind::kMissing, HasSubstr("--model")));
    ASSERT_OK(WriteSmallFile(fs_, JoinPath(path, "params.json"), ReadContents(fs_, "/meta").at("params.json")));
    ASSERT_OK(Open(path));
  }
  ASSERT_OK_AND_ASSIGN(const bool fits, NewFairseq2Format()->Probe(fs_, "/meta"));
  EXPECT_FALSE(fits);
}

// The tied fixture has its embedding in both stages.
TEST_F(Fairseq2FilesTest, ATensorInTwoStagesMustBeTheSame) {
  CopyDirectory(absl::StrCat(kFixtures, "fairseq2_llama32_tied_bf16/fairseq2"), fs_, "/fs2");
  ASSERT_OK(WriteSmallFile(fs_, "/fs2/params.json", kTiedParams));
  EXPECT_THAT(Open("/fs2"), IsKind(ErrorKind::kMissing, HasSubstr("\"final_proj.weight\"; --tied yes")));
  const FormatOptionValues values = {{"tied", "yes"}, {"rope-factor", "32"}};
  ASSERT_OK_AND_ASSIGN(const OpenedCheckpoint same, Open("/fs2", values));
  EXPECT_THAT(same.notes, Contains(HasSubstr("1 tensors are in several stages and the same in each")));

  const std::string folder = "/fs2/pp_01/tp_00";
  FileTensors tensors = ReadTorchTensors(fs_, folder + "/sdp_02.pt");
  tensors.at("decoder_frontend.embed.weight").bytes.back() ^= 1;
  WriteTorchTensors(fs_, folder, "sdp_02.pt", tensors);

  EXPECT_THAT(Open("/fs2", values),
              IsKind(ErrorKind::kDupKey, HasSubstr("decoder_frontend.embed.weight\" is in stages 0 and 1")));
}

}  // namespace
}  // namespace waypoint::models
