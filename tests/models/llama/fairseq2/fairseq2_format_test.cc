// What a directory of fairseq2 may and may not be, and what settles the model that it holds.

#include "models/llama/fairseq2/fairseq2_format.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "checkpoint/checkpointer/checkpointer.h"
#include "checkpoint/storage/memory_file_system.h"
#include "gmock/gmock.h"
#include "models/llama/reference/model.h"
#include "tests/models/llama/reference/torch_files.h"
#include "tests/testing/decoder_state.h"
#include "tests/testing/directory_contents.h"
#include "tests/testing/temp_directory.h"

namespace waypoint::models {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kModel[] = "/model";
constexpr char kWhole[] = "/model/model.pt";
constexpr char kFirstLayer[] = "decoder.layers.0.";

enum class Empty { kFloat1D, kNoRows, kAbsent };

// Rows of one piece, as torch.chunk gives them, by plain arithmetic.
FileTensor Rows(const FileTensor& whole, int64_t piece, int64_t pieces, Empty empty) {
  const int64_t rows = whole.shape[0];
  const int64_t each = (rows + pieces - 1) / pieces;
  const int64_t begin = std::min(piece * each, rows);
  const int64_t end = std::min(begin + each, rows);
  const int64_t row_bytes = static_cast<int64_t>(whole.bytes.size()) / rows;
  FileTensor part = whole;
  part.shape[0] = end - begin;
  part.bytes.assign(whole.bytes.begin() + begin * row_bytes, whole.bytes.begin() + end * row_bytes);
  if (begin == end && empty == Empty::kFloat1D) {
    part.dtype = DType::kF32;
    part.shape = {0};
  }
  return part;
}

class Fairseq2FormatTest : public testing::Test {
 protected:
  // TinyConfig has 4 heads, 2 of keys and values, and 2 layers.
  void Save(const FormatOptionValues& values = {}, const DecoderConfig& config = TinyConfig()) {
    state_ = NewDecoderState(config, 7, DType::kBF16, /*optimizer_state=*/false);
    WriteOptions options;
    options.format = "fairseq2";
    // Trees of tests before, which nothing here writes, are not overwritten.
    ASSERT_OK(RemoveTree(fs_, kModel));
    options.save.format_options = values;
    ASSERT_OK(WriteCheckpoint(fs_, kModel, options, state_.metadata, *state_.tensors, {}));
  }

  // The state dict, without the key before it.
  static FileTensors StateDict(FileSystem& fs, const std::string& path) {
    FileTensors state;
    for (const auto& [name, tensor] : ReadTorchTensors(fs, path)) {
      state[std::string(absl::StripPrefix(name, "model."))] = tensor;
    }
    return state;
  }

  // Cuts what Save wrote: each rank's file in stages, those in pieces.
  void MakeTree(int64_t stages, int64_t ranks, int64_t pieces, Empty empty = Empty::kFloat1D) {
    Save({{"model-parallel", absl::StrCat(ranks)}});
    for (int64_t rank = 0; rank < ranks; ++rank) {
      const std::string file = ranks == 1 ? "model.pt" : absl::StrCat("model.", rank, ".pt");
      const FileTensors state = StateDict(fs_, JoinPath(kModel, file));
      ASSERT_OK(RemoveTree(fs_, JoinPath(kModel, file)));
      for (int64_t stage = 0; stage < stages; ++stage) {
        for (int64_t piece = 0; piece < pieces; ++piece) {
          FileTensors contents;
          for (const auto& [name, tensor] : state) {
            const bool last = absl::StartsWith(name, "final_proj.") || absl::StartsWith(name, "decoder.layer_norm.") ||
                              absl::StartsWith(name, "decoder.layers.1.");
            FileTensor part = Rows(tensor, piece, pieces, empty);
            if ((last ? stages - 1 : 0) == stage && (part.shape[0] > 0 || empty != Empty::kAbsent)) {
              contents[name] = std::move(part);
            }
          }
          const std::string folder = absl::StrFormat("%s/pp_%02d/tp_%02d", kModel, stage, rank);
          ASSERT_OK(MakeDirectories(fs_, folder));
          WriteTorchTensors(fs_, folder, absl::StrFormat("sdp_%02d.pt", piece), contents);
        }
      }
    }
  }

  absl::StatusOr<OpenedCheckpoint> Open(const FormatOptionValues& values = {}) {
    LoadOptions options;
    options.format_options = values;
    return NewFairseq2Format()->Open(fs_, kModel, options);
  }

  void Edit(const std::string& file, const std::function<void(FileTensors*)>& edit) {
    const std::string path = JoinPath(kModel, file);
    FileTensors tensors = ReadTorchTensors(fs_, path);
    edit(&tensors);
    WriteTorchTensors(fs_, DirName(path), BaseName(path), tensors);
  }

  void ExpectState(const absl::StatusOr<OpenedCheckpoint>& opened) {
    ASSERT_OK(opened);
    ASSERT_EQ(opened->tensors->manifest().size(), state_.tensors->manifest().size());
    for (int64_t i = 0; i < state_.tensors->manifest().size(); ++i) {
      const TensorMeta& wanted = state_.tensors->manifest()[i];
      const int64_t found = opened->tensors->manifest().Find(wanted.name);
      ASSERT_GE(found, 0) << wanted.name;
      EXPECT_EQ(opened->tensors->manifest()[found].dtype, DType::kBF16) << wanted.name;
      EXPECT_EQ(ReadWhole(*opened->tensors, found).value(), ReadWhole(*state_.tensors, i).value()) << wanted.name;
    }
  }

  MemoryFileSystem fs_;
  DecoderState state_;
};

TEST_F(Fairseq2FormatTest, EveryCutComesBack) {
  Save();
  ExpectState(Open());
  Save({{"model-parallel", "2"}});
  EXPECT_EQ(ReadContents(fs_, kModel).count("model.1.pt"), 1);
  ExpectState(Open());
  for (const int64_t stages : {1, 2}) {
    for (const int64_t ranks : {1, 2}) {
      for (const int64_t pieces : {1, 2, 3, 7, 20}) {
        for (const Empty empty : {Empty::kFloat1D, Empty::kNoRows, Empty::kAbsent}) {
          MakeTree(stages, ranks, pieces, empty);
          ExpectState(Open());
        }
      }
    }
  }
}

TEST_F(Fairseq2FormatTest, FilesOfATreeThatAreNotThere) {
  const std::string cases[][2] = {
      {"pp_00/tp_01/sdp_01.pt", "tp_01\": sdp_01.pt is absent"},
      {"pp_00/tp_01/sdp_02.pt", "pp_00/tp_01 holds 2 sdp_NN.pt, pp_00/tp_00 3"},
      {"pp_01/tp_00/sdp_02.pt", "pp_01/tp_00 holds 2 sdp_NN.pt, pp_00/tp_00 3"},
      {"pp_00/tp_01", "pp_01 holds 2 tp_NN, pp_00 1"},
      {"pp_01/tp_01", "pp_01 holds 1 tp_NN, pp_00 2"},
      {"pp_01/tp_00", "tp_00 is absent"},
      {"pp_00", "pp_00 is absent"},
      {"pp_01", "has no tensor \"decoder.layer_norm.weight\""},
  };
  for (const auto& [path, message] : cases) {
    MakeTree(2, 2, 3);
    ASSERT_OK(RemoveTree(fs_, JoinPath(kModel, path)));
    EXPECT_THAT(Open(), IsKind(ErrorKind::kMissing, HasSubstr(message))) << path;
  }
  MakeTree(1, 1, 2);
  ASSERT_OK(RemoveTree(fs_, "/model/pp_00/tp_00"));
  ASSERT_OK(MakeDirectories(fs_, "/model/pp_00/tp_00"));
  EXPECT_THAT(Open(), IsKind(ErrorKind::kMissing, HasSubstr("pp_00/tp_00 holds 0 sdp_NN.pt, wanted one or more")));
}

// The other pieces look like all of fewer.
TEST_F(Fairseq2FormatTest, TheLastPieceOfAllRanksIsMissed) {
  MakeTree(1, 2, 4);
  for (const char* rank : {"tp_00", "tp_01"}) {
    ASSERT_OK(RemoveTree(fs_, absl::StrCat("/model/pp_00/", rank, "/sdp_03.pt")));
  }
  EXPECT_THAT(Open(),
              IsKind(ErrorKind::kShape, HasSubstr("joined from 3 sdp files for each rank, if there were no more")));
  // The last rank of all.
  MakeTree(1, 2, 3);
  ASSERT_OK(RemoveTree(fs_, "/model/pp_00/tp_01"));
  EXPECT_THAT(Open(), IsKind(ErrorKind::kMissing, HasSubstr("a part of 2 files")));
}

TEST_F(Fairseq2FormatTest, PiecesThatDoNotFit) {
  const std::string gate = absl::StrCat(kFirstLayer, "ffn.gate_proj.weight");
  const std::string norm = absl::StrCat(kFirstLayer, "ffn_layer_norm.weight");
  const std::string first = "pp_00/tp_00/sdp_00.pt";
  const std::string second = "pp_00/tp_00/sdp_01.pt";

  // 24 rows in 5 pieces: 5, 5, 5, 5, 4.
  MakeTree(1, 1, 5);
  Edit(second, [&](FileTensors* tensors) {
    FileTensor& tensor = tensors->at(gate);
    tensor.bytes.resize(tensor.bytes.size() / 5 * 4);
    tensor.shape[0] = 4;
  });
  EXPECT_THAT(Open(), IsKind(ErrorKind::kShape, AllOf(HasSubstr(second), HasSubstr(gate),
                                                      HasSubstr("has 4 rows; of 23 "
                                                                "rows in 5 pieces it "
                                                                "should have 5"))));
  MakeTree(1, 1, 5);
  Edit("pp_00/tp_00/sdp_03.pt", [&](FileTensors* tensors) { std::swap(tensors->at(gate), tensors->at(norm)); });
  EXPECT_THAT(Open(), IsKind(ErrorKind::kShape, HasSubstr("an earlier piece [")));

  MakeTree(1, 1, 5);
  Edit(second, [&](FileTensors* tensors) { tensors->at(gate).dtype = DType::kF16; });
  EXPECT_THAT(Open(), IsKind(ErrorKind::kDType, AllOf(HasSubstr(second), HasSubstr("F16"), HasSubstr("BF16"))));

  MakeTree(1, 1, 5);
  Edit(second, [&](FileTensors* tensors) { tensors->erase(norm); });
  EXPECT_THAT(Open(), IsKind(ErrorKind::kMissing, AllOf(HasSubstr(second), HasSubstr(norm), HasSubstr("is absent"))));

  // Nothing of it anywhere, or nothing to cut.
  MakeTree(1, 1, 2);
  for (const std::string& file : {first, second}) {
    Edit(file, [&](FileTensors* tensors) { (*tensors)["more"] = {DType::kF32, {0}, {}}; });
  }
  EXPECT_THAT(Open(), IsKind(ErrorKind::kShape, HasSubstr("\"more\" has no elements, nor has any piece")));
  for (const std::string& file : {first, second}) {
    Edit(file, [&](FileTensors* tensors) { (*tensors)["more"] = {DType::kF32, {}, std::vector<char>(4)}; });
  }
  EXPECT_THAT(Open(), IsKind(ErrorKind::kShape, HasSubstr("\"more\" has no rows to be cut along")));
}

TEST_F(Fairseq2FormatTest, NumbersWithAGapAndTwoModels) {
  Save({{"model-parallel", "2"}});
  EXPECT_EQ(NewFairseq2Format()->Probe(fs_, kModel).value(), true);
  ASSERT_OK(fs_.Rename("/model/model.1.pt", "/model/model.2.pt"));
  EXPECT_THAT(Open(), IsKind(ErrorKind::kMissing, HasSubstr("model.1.pt is absent, and there are 2")));
  ASSERT_OK(RemoveTree(fs_, "/model/model.2.pt"));
  EXPECT_THAT(Open(), IsKind(ErrorKind::kMissing, HasSubstr("a part of 2 files")));

  ASSERT_OK(fs_.Rename("/model/model.0.pt", "/model/model.pt"));
  EXPECT_THAT(Open(), IsKind(ErrorKind::kMissing, HasSubstr("a part of 2 files")));
  ASSERT_OK(WriteSmallFile(fs_, "/model/model.0.pt", "anything"));
  EXPECT_THAT(Open(), IsKind(ErrorKind::kAmbiguous, HasSubstr("holds model.pt and model.0.pt")));
  MakeTree(1, 1, 1);
  ASSERT_OK(WriteSmallFile(fs_, kWhole, "anything"));
  EXPECT_THAT(Open(), IsKind(ErrorKind::kAmbiguous, HasSubstr("holds model.pt and a tree of pp_NN")));

  ASSERT_OK(RemoveTree(fs_, kModel));
  ASSERT_OK(MakeDirectories(fs_, kModel));
  EXPECT_EQ(NewFairseq2Format()->Probe(fs_, kModel).value(), false);
  EXPECT_THAT(Open(), IsKind(ErrorKind::kMissing, HasSubstr("neither model.pt nor")));
}

TEST_F(Fairseq2FormatTest, WeightsOfOthersAreNotMistaken) {
  Save();
  for (const char* name : {"model.safetensors", "pytorch_model-00001-of-00002.bin", "consolidated.00.pth"}) {
    ASSERT_OK(WriteSmallFile(fs_, JoinPath(kModel, name), "x"));
    EXPECT_EQ(NewFairseq2Format()->Probe(fs_, kModel).value(), false) << name;
    ASSERT_OK(RemoveTree(fs_, JoinPath(kModel, name)));
    EXPECT_EQ(NewFairseq2Format()->Probe(fs_, kModel).value(), true);
  }
}

TEST_F(Fairseq2FormatTest, TensorsThatNobodyKnowsOrThatAreNotThere) {
  Save();
  Edit("model.pt", [](FileTensors* tensors) {
    (*tensors)["model.decoder.layers.1.self_attn.q_norm.weight"] = tensors->at("model.decoder.layer_norm.weight");
  });
  EXPECT_THAT(Open(), IsKind(ErrorKind::kExtra, HasSubstr("\"decoder.layers.1.self_attn.q_norm.weight\"")));
  Save();
  Edit("model.pt", [](FileTensors* tensors) { tensors->erase("model.decoder.layers.1.ffn_layer_norm.weight"); });
  EXPECT_THAT(Open(), IsKind(ErrorKind::kMissing, HasSubstr("\"decoder.layers.1.ffn_layer_norm.weight\"")));
  Edit("model.pt", [](FileTensors* tensors) { tensors->erase("model.decoder_frontend.embed.weight"); });
  EXPECT_THAT(Open(), IsKind(ErrorKind::kMissing, HasSubstr("model.pt has no tensor \"decoder_frontend.embed.weight\"; "
                                                            "every fairseq2 checkpoint has it")));
}

TEST_F(Fairseq2FormatTest, ATiedOutputIsOneStorageAndTiedAgain) {
  DecoderConfig tied = TinyConfig();
  tied.set_tied_embedding_weight(true);
  Save({}, tied);
  const TorchContents listing = ReadListing(fs_, kWhole);
  EXPECT_EQ(listing.storages.size() + 1, listing.tensors.size());
  ExpectState(Open());

  Edit("model.pt", [](FileTensors* tensors) { tensors->erase("model.final_proj.weight"); });
  EXPECT_THAT(Open(), IsKind(ErrorKind::kMissing, HasSubstr("--tied yes")));
  ExpectState(Open({{"tied", "yes"}}));
}

TEST_F(Fairseq2FormatTest, OptionsAndParamsMustAgree) {
  Save();
  EXPECT_THAT(Open({{"model", "llama3_8b"}}), IsKind(ErrorKind::kConfig, HasSubstr("n_heads is 4 in params.json, 32")));
  EXPECT_THAT(Open({{"norm-eps", "1e-6"}}), IsKind(ErrorKind::kConfig, HasSubstr("params.json says 1e-05")));
  EXPECT_THAT(Open({{"norm-eps", "small"}}), IsKind(ErrorKind::kRequest, HasSubstr("\"small\"")));
  EXPECT_THAT(Open({{"consumer", "llama3"}}), IsKind(ErrorKind::kRequest, HasSubstr("consumer")));
  EXPECT_THAT(Open({{"ignore-params", "true"}}),
              IsKind(ErrorKind::kMissing, AllOf(HasSubstr("params.json is not read"), HasSubstr("llama3_2_1b"),
                                                HasSubstr("number of heads, rope_theta and the rotary scaling"))));
  ASSERT_OK(Open({{"norm-eps", "1e-5"}}));
}

TEST_F(Fairseq2FormatTest, MorePartsThanHeadsAreNotWritten) {
  state_ = NewDecoderState(TinyConfig(), 7, DType::kBF16, /*optimizer_state=*/false);
  WriteOptions options;
  options.format = "fairseq2";
  options.save.format_options["model-parallel"] = "4";
  EXPECT_THAT(WriteCheckpoint(fs_, kModel, options, state_.metadata, *state_.tensors, {}),
              IsKind(ErrorKind::kRequest, HasSubstr("2 heads of keys and values, and fairseq2 does not repeat them")));
  options.save.format_options.clear();
  ASSERT_OK(WriteSmallFile(fs_, "/asset", "x"));
  for (const char* name : {"model.pt", "params.json"}) {
    Asset asset;
    asset.name = name;
    asset.path = "/asset";
    asset.size_bytes = 1;
    EXPECT_THAT(WriteCheckpoint(fs_, kModel, options, state_.metadata, *state_.tensors, {asset}),
                IsKind(ErrorKind::kRequest, HasSubstr("a name of the format's own")));
  }
}

TEST(Fairseq2LinksTest, DoNotLeaveTheDirectory) {
  const TempDirectory directory;
  const DecoderState state = NewDecoderState(TinyConfig(), 7, DType::kBF16, /*optimizer_state=*/false);
  WriteOptions options;
  options.format = "fairseq2";
  ASSERT_OK(WriteCheckpoint(PosixFileSystem(), directory.Path("out"), options, state.metadata, *state.tensors, {}));
  directory.MakeDirectory("in/pp_00/tp_00");
  directory.Link("../../../out/model.pt", "in/pp_00/tp_00/sdp_00.pt");
  const auto open = [&directory](absl::string_view name) {
    return NewFairseq2Format()->Open(PosixFileSystem(), directory.Path(name), {});
  };
  EXPECT_THAT(open("in"), IsKind(ErrorKind::kPath, HasSubstr("sdp_00.pt")));
  directory.Remove("in/pp_00/tp_00/sdp_00.pt");
  directory.Link("../out/model.pt", "in/model.pt");
  directory.Remove("in/pp_00");
  EXPECT_THAT(open("in"), IsKind(ErrorKind::kPath, HasSubstr("model.pt")));
  directory.MakeDirectory("in/pp_00");

  directory.MakeDirectory("linked");
  directory.Link("../in/pp_00", "linked/pp_00");
  EXPECT_THAT(open("linked"), IsKind(ErrorKind::kPath, HasSubstr("pp_00\" is a link")));
  directory.MakeDirectory("file");
  directory.Write("file/pp_00", "x");
  EXPECT_THAT(open("file"), IsKind(ErrorKind::kIo, HasSubstr("is no directory")));
}

}  // namespace
}  // namespace waypoint::models
