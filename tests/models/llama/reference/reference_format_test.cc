// What a reference directory may and may not be, and what of it is compared, assumed and told.

#include "models/llama/reference/reference_format.h"

#include <cstring>
#include <functional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "checkpoint/checkpointer/checkpointer.h"
#include "checkpoint/storage/memory_file_system.h"
#include "checkpoint/tensor/cast.h"
#include "gmock/gmock.h"
#include "models/llama/reference/model.h"
#include "tests/models/llama/reference/torch_files.h"
#include "tests/testing/decoder_state.h"
#include "tests/testing/directory_contents.h"

namespace waypoint::models {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr char kModel[] = "/model";
constexpr char kFirst[] = "/model/consolidated.00.pth";
constexpr char kSecond[] = "/model/consolidated.01.pth";

class ReferenceFormatTest : public testing::Test {
 protected:
  // TinyConfig has 4 heads, 2 of keys and values.
  void Save(const FormatOptionValues& values, const DecoderConfig& config = TinyConfig()) {
    state_ = NewDecoderState(config, 7, DType::kBF16, /*optimizer_state=*/false);
    WriteOptions options;
    options.format = "reference";
    options.overwrite = true;
    options.save.format_options = values;
    ASSERT_OK(WriteCheckpoint(fs_, kModel, options, state_.metadata, *state_.tensors, {}));
  }

  absl::StatusOr<OpenedCheckpoint> Open(const FormatOptionValues& values = {}, bool carry_unknown = false) {
    LoadOptions options;
    options.format_options = values;
    options.carry_unknown = carry_unknown;
    return NewReferenceFormat()->Open(fs_, kModel, options);
  }

  void Edit(const std::string& file, const std::function<void(FileTensors*)>& edit) {
    FileTensors tensors = ReadTorchTensors(fs_, file);
    edit(&tensors);
    WriteTorchTensors(fs_, kModel, BaseName(file), tensors);
  }

  void WriteParams(const std::string& text) { Rewrite(fs_, "/model/params.json", text); }

  void EditParams(const std::string& from, const std::string& to) {
    const std::string text = ReadContents(fs_, kModel)["params.json"];
    ASSERT_THAT(text, HasSubstr(from));
    WriteParams(absl::StrReplaceAll(text, {{from, to}}));
  }

  void ExpectState(OpenedCheckpoint& opened) {
    ASSERT_EQ(opened.tensors->manifest().size(), state_.tensors->manifest().size());
    for (int64_t i = 0; i < state_.tensors->manifest().size(); ++i) {
      const int64_t found = opened.tensors->manifest().Find(state_.tensors->manifest()[i].name);
      ASSERT_GE(found, 0);
      EXPECT_EQ(ReadWhole(*opened.tensors, found).value(), ReadWhole(*state_.tensors, i).value());
    }
  }

  MemoryFileSystem fs_;
  DecoderState state_;
};

// Adds to the first element of a bfloat16 tensor.
void Nudge(FileTensor* tensor, float by) {
  float value = 0;
  CastElements(DType::kBF16, tensor->bytes.data(), DType::kF32, reinterpret_cast<char*>(&value), 1);
  value += by;
  CastElements(DType::kF32, reinterpret_cast<const char*>(&value), DType::kBF16, tensor->bytes.data(), 1);
}

TEST_F(ReferenceFormatTest, EveryNumberOfFilesComesBack) {
  for (const char* files : {"1", "2", "4"}) {
    for (const char* consumer : {"llama2", "llama3", "fairseq2"}) {
      Save({{"model-parallel", files}, {"consumer", consumer}});
      ASSERT_OK_AND_ASSIGN(OpenedCheckpoint opened, Open());
      ExpectState(opened);
    }
  }
}

TEST_F(ReferenceFormatTest, TheCutOfTheEmbeddingIsFoundByItsShape) {
  Save({{"model-parallel", "2"}, {"consumer", "llama2"}});
  EXPECT_EQ(ReadTorchTensors(fs_, kFirst)["tok_embeddings.weight"].shape, Dims({32, 8}));
  ASSERT_OK_AND_ASSIGN(OpenedCheckpoint columns, Open());
  ExpectState(columns);

  Save({{"model-parallel", "2"}, {"consumer", "llama3"}});
  EXPECT_EQ(ReadTorchTensors(fs_, kFirst)["tok_embeddings.weight"].shape, Dims({16, 16}));
  ASSERT_OK_AND_ASSIGN(OpenedCheckpoint rows, Open());
  ExpectState(rows);
}

TEST_F(ReferenceFormatTest, RepeatedHeadsAreFoundByTheirContents) {
  Save({{"model-parallel", "4"}, {"consumer", "llama3"}});
  EXPECT_THAT(ReadContents(fs_, kModel)["params.json"], HasSubstr("\"n_kv_heads\": 4"));

  ASSERT_OK_AND_ASSIGN(OpenedCheckpoint opened, Open());

  ExpectState(opened);
  EXPECT_THAT(opened.notes, Contains(HasSubstr("the 4 heads of keys and values are 2 copies of each of 2")));
}

TEST_F(ReferenceFormatTest, HeadsThatDifferAreNoCopies) {
  Save({{"model-parallel", "4"}, {"consumer", "llama3"}});
  // In the last layer only: all layers count.
  Edit(kSecond, [](FileTensors* tensors) { Nudge(&(*tensors)["layers.1.attention.wv.weight"], 1); });

  ASSERT_OK_AND_ASSIGN(const OpenedCheckpoint opened, Open());
  DecoderConfig config;
  ASSERT_TRUE(opened.metadata.model_config().UnpackTo(&config));
  EXPECT_EQ(AttentionOf(config).head_groups(), 4);

  // Said to be copies, they must be.
  EditParams("\"n_kv_heads\": 4", "\"n_kv_heads\": 2");
  EXPECT_THAT(Open(), IsKind(ErrorKind::kConfig, HasSubstr("neighbouring files hold different ones")));
}

TEST_F(ReferenceFormatTest, NormsThatDifferALittleAreToldAndMuchAreRefused) {
  Save({{"model-parallel", "2"}});
  ASSERT_OK_AND_ASSIGN(const OpenedCheckpoint same, Open());
  EXPECT_THAT(same.notes, Not(Contains(HasSubstr("differ between files"))));

  Edit(kSecond, [](FileTensors* tensors) { Nudge(&(*tensors)["layers.1.ffn_norm.weight"], 2); });

  EXPECT_THAT(Open(),
              IsKind(ErrorKind::kAmbiguous, AllOf(HasSubstr("\"layers.1.ffn_norm.weight\""), HasSubstr("element 0"),
                                                  HasSubstr("consolidated.01.pth"), HasSubstr("0.01"))));
  ASSERT_OK_AND_ASSIGN(OpenedCheckpoint tolerated, Open({{"replica-tolerance", "3"}}));
  EXPECT_THAT(tolerated.notes, Contains(AllOf(HasSubstr("1 tensors"), HasSubstr("by 2 at most"),
                                              HasSubstr("\"layers.1.ffn_norm.weight\""))));
  ExpectState(tolerated);  // the first file's
}

TEST_F(ReferenceFormatTest, ANormThatIsNoNumberIsRefused) {
  Save({{"model-parallel", "2"}});
  Edit(kSecond, [](FileTensors* tensors) {
    const uint16_t nan = 0x7fc0;
    std::memcpy((*tensors)["norm.weight"].bytes.data(), &nan, 2);
  });
  EXPECT_THAT(Open({{"replica-tolerance", "1000"}}), IsKind(ErrorKind::kAmbiguous, HasSubstr("\"norm.weight\"")));
}

TEST_F(ReferenceFormatTest, ATiedHeadIsOneStorageAndTiedAgain) {
  DecoderConfig tied = TinyConfig();
  tied.set_tied_embedding_weight(true);
  Save({{"consumer", "llama3"}}, tied);
  const TorchContents listing = ReadListing(fs_, kFirst);
  EXPECT_EQ(listing.storages.size() + 1, listing.tensors.size());
  ASSERT_OK_AND_ASSIGN(OpenedCheckpoint opened, Open());
  ExpectState(opened);

  // Cut differently, they are two, with the same values.
  Save({{"model-parallel", "2"}, {"consumer", "llama2"}}, tied);
  EXPECT_EQ(ReadListing(fs_, kFirst).storages.size(), ReadListing(fs_, kFirst).tensors.size());
  ASSERT_OK_AND_ASSIGN(OpenedCheckpoint split, Open());
  ExpectState(split);
  EXPECT_LT(split.tensors->manifest().Find("head.output_weights"), 0);

  ASSERT_OK_AND_ASSIGN(const OpenedCheckpoint untied, Open({{"tied", "no"}}));
  EXPECT_GE(untied.tensors->manifest().Find("head.output_weights"), 0);
}

TEST_F(ReferenceFormatTest, AHeadOfItsOwnIsNotTied) {
  Save({});
  EXPECT_THAT(Open({{"tied", "yes"}}), IsKind(ErrorKind::kConfig, HasSubstr("different values")));
  EXPECT_THAT(Open({{"tied", "perhaps"}}), IsKind(ErrorKind::kRequest, HasSubstr("\"perhaps\"")));
  EXPECT_THAT(Open({{"ignore-params", "perhaps"}}), IsKind(ErrorKind::kRequest, HasSubstr("true or false")));
  EXPECT_THAT(Open({{"replica-tolerance", "-1"}}), IsKind(ErrorKind::kRequest, HasSubstr("\"-1\"")));
  EXPECT_THAT(Open({{"model-parallel", "2"}}),
              IsKind(ErrorKind::kRequest, HasSubstr("no option \"model-parallel\" for reading")));
}

TEST_F(ReferenceFormatTest, AMissingHeadIsTheEmbeddingOnlyWhenSaid) {
  Save({});
  Edit(kFirst, [](FileTensors* tensors) { tensors->erase("output.weight"); });

  EXPECT_THAT(Open(), IsKind(ErrorKind::kMissing, AllOf(HasSubstr("\"output.weight\""), HasSubstr("--tied yes"))));
  ASSERT_OK_AND_ASSIGN(const OpenedCheckpoint opened, Open({{"tied", "yes"}}));
  EXPECT_THAT(opened.notes, Contains(HasSubstr("took the embedding")));
}

TEST_F(ReferenceFormatTest, FilesThatAreNotThere) {
  Save({{"model-parallel", "2"}});
  ASSERT_OK(RemoveTree(fs_, kSecond));
  EXPECT_THAT(Open(), IsKind(ErrorKind::kMissing, HasSubstr("a part of 2 files")));

  Save({{"model-parallel", "4"}});
  ASSERT_OK(RemoveTree(fs_, kSecond));
  EXPECT_THAT(Open(), IsKind(ErrorKind::kMissing, HasSubstr("consolidated.01.pth is absent")));

  Save({});
  ASSERT_OK(RemoveTree(fs_, kFirst));
  EXPECT_THAT(Open(), IsKind(ErrorKind::kMissing, HasSubstr("consolidated.00.pth")));
}

TEST_F(ReferenceFormatTest, StraysAreRefusedByName) {
  Save({});
  ASSERT_OK(WriteSmallFile(fs_, "/model/optimizer.pth", "x"));
  EXPECT_THAT(Open(), IsKind(ErrorKind::kExtra, HasSubstr("\"optimizer.pth\"")));
}

TEST_F(ReferenceFormatTest, FilesWithOtherTensors) {
  Save({{"model-parallel", "2"}});
  Edit(kSecond, [](FileTensors* tensors) {
    auto norm = tensors->extract("norm.weight");
    norm.key() = "norm.wieght";
    tensors->insert(std::move(norm));
  });
  EXPECT_THAT(Open(), IsKind(ErrorKind::kMissing, HasSubstr("\"norm.weight\" in consolidated.01.pth")));

  Save({{"model-parallel", "2"}});
  Edit(kSecond, [](FileTensors* tensors) { (*tensors)["more"] = (*tensors)["norm.weight"]; });
  EXPECT_THAT(Open(), IsKind(ErrorKind::kExtra, HasSubstr("\"more\" in consolidated.01.pth")));

  Save({{"model-parallel", "2"}});
  Edit(kSecond, [](FileTensors* tensors) {
    FileTensor& gate = (*tensors)["layers.0.feed_forward.w1.weight"];
    std::swap(gate.shape[0], gate.shape[1]);
  });
  EXPECT_THAT(Open(), IsKind(ErrorKind::kShape, HasSubstr("BF16 [12, 16] in consolidated.00.pth and BF16 [16, 12]")));
}

// {"model": {...}}, as trainers save it.
TEST_F(ReferenceFormatTest, AStateDictUnderAUsualKeyIsTaken) {
  for (const std::string wrapper : {"weights.", "state_dict.", "model."}) {
    Save({{"model-parallel", "2"}});
    for (const char* file : {kFirst, kSecond}) {
      Edit(file, [&wrapper](FileTensors* tensors) {
        FileTensors wrapped;
        for (const auto& [name, tensor] : *tensors) {
          wrapped[wrapper + name] = tensor;
        }
        *tensors = wrapped;
      });
    }

    ASSERT_OK_AND_ASSIGN(OpenedCheckpoint opened, Open());
    ExpectState(opened);
    EXPECT_THAT(opened.notes, Contains(HasSubstr("2 of 2 .pth files from a dict inside")));
  }

  Edit(kSecond, [](FileTensors* tensors) { (*tensors)["optimizer.step"] = (*tensors)["model.norm.weight"]; });
  EXPECT_THAT(Open(), IsKind(ErrorKind::kExtra, AllOf(HasSubstr("stand under \"model.\""), HasSubstr("beside them 1"),
                                                      HasSubstr("\"optimizer.step\""))));
}

TEST_F(ReferenceFormatTest, TensorsThatNobodyKnowsOrThatAreNotThere) {
  Save({});
  Edit(kFirst, [](FileTensors* tensors) {
    (*tensors)["layers.0.attention.wq.bias"] = (*tensors)["norm.weight"];
    tensors->erase("layers.1.ffn_norm.weight");
  });
  EXPECT_THAT(Open(), IsKind(ErrorKind::kMissing, AllOf(HasSubstr("\"layers.0.attention.wq.bias\""),
                                                        HasSubstr("\"layers.1.ffn_norm.weight\""))));

  Edit(kFirst, [](FileTensors* tensors) { (*tensors)["layers.123456789.x"] = (*tensors)["norm.weight"]; });
  EXPECT_THAT(Open(), IsKind(ErrorKind::kMissing, HasSubstr("layer 123456789")));

  Edit(kFirst, [](FileTensors* tensors) { tensors->erase("norm.weight"); });
  EXPECT_THAT(Open(), IsKind(ErrorKind::kMissing, HasSubstr("has no tensor \"norm.weight\"")));
}

TEST_F(ReferenceFormatTest, ParamsThatAreNoParams) {
  Save({});
  for (const auto& [text, kind, message] : std::vector<std::tuple<std::string, ErrorKind, std::string>>{
           {"<!DOCTYPE html><html>404</html>", ErrorKind::kJson, "web page"},
           {"{\"dim\": 16,", ErrorKind::kJson, "params.json"},
           {"{\"dim\": 16, \"dim\": 32}", ErrorKind::kDupKey, "\"dim\""},
           {"[]", ErrorKind::kSchema, "must be an object"},
           {"{\"model\": 3}", ErrorKind::kSchema, "\"model\""},
           {"{\"model\": {}, \"other\": 1}", ErrorKind::kConfig, "\"other\""},
           {"{\"n_heads\": 4.5, \"norm_eps\": -1, \"use_scaled_rope\": 1}", ErrorKind::kConfig, "\"n_heads\" is 4.5"},
           {"{\"n_heads\": 4294967296}", ErrorKind::kConfig, "4294967296"},
           {"{\"n_heads\": 4, \"lora_args\": {\"rank\": 8}}", ErrorKind::kUnsupported, "adapter weights"},
       }) {
    WriteParams(text);
    EXPECT_THAT(Open(), IsKind(kind, HasSubstr(message))) << text;
  }
}

TEST_F(ReferenceFormatTest, AnErrorOfParamsNamesTheFileOnce) {
  Save({});
  EditParams("{\"dim\"", "{\"mine\": 1, \"dim\"");
  EXPECT_THAT(Open(), IsKind(ErrorKind::kConfig, HasSubstr("\"/model\": params.json: cannot be read: 1 unknown key")));
}

TEST_F(ReferenceFormatTest, UnknownKeysAreRefusedTogetherOrCarried) {
  Save({});
  EditParams("{\"dim\"", "{\"mine\": [1, 2], \"yours\": \"x\", \"max_seq_len\": 5, \"dim\"");
  EXPECT_THAT(Open(), IsKind(ErrorKind::kConfig, AllOf(HasSubstr("2 unknown keys"), HasSubstr("\"mine\" = [1,2]"),
                                                       HasSubstr("\"yours\""), Not(HasSubstr("max_seq_len")))));

  ASSERT_OK_AND_ASSIGN(const OpenedCheckpoint opened, Open({}, /*carry_unknown=*/true));
  const std::string text = ReadContents(fs_, kModel)["params.json"];
  WriteOptions options;
  options.format = "reference";
  ASSERT_OK(WriteCheckpoint(fs_, "/again", options, opened.metadata, *opened.tensors, {}));
  EXPECT_EQ(ReadContents(fs_, "/again")["params.json"], text);
}

TEST_F(ReferenceFormatTest, ContradictionsNameBothValues) {
  Save({{"consumer", "llama3"}});
  struct Case {
    std::string from;
    std::string to;
    ErrorKind kind;
    std::string message;
  };
  for (const auto& [from, to, kind, message] : std::vector<Case>{
           {"\"dim\": 16", "\"dim\": 32", ErrorKind::kShape, "dim is 32 in params.json, 16 in the tensors"},
           {"\"n_layers\": 2", "\"n_layers\": 3", ErrorKind::kMissing,
            "n_layers is 3 in params.json, 2 in the tensors"},
           {"\"n_layers\": 2", "\"n_layers\": 1", ErrorKind::kExtra, "n_layers is 1 in params.json, 2 in the tensors"},
           {"\"n_heads\": 4", "\"n_heads\": 5", ErrorKind::kConfig, "n_heads is 5, but dim 16"},
           {"\"n_kv_heads\": 2", "\"n_kv_heads\": 4", ErrorKind::kConfig,
            "n_kv_heads is 4 in params.json, 2 in the tensors"},
           {"\"n_kv_heads\": 2, ", "", ErrorKind::kConfig, "n_kv_heads is 4 (params.json has none"},
           {"\"vocab_size\": 32", "\"vocab_size\": 33", ErrorKind::kShape,
            "vocab_size is 33 in params.json, 32 in the tensors"},
           {"\"n_heads\": 4, ", "", ErrorKind::kConfig, "how many heads"},
           {"\"multiple_of\": 8", "\"multiple_of\": 256", ErrorKind::kShape,
            "the hidden layer is 256 by multiple_of 256 and ffn_dim_multiplier 0.57 of params.json"},
       }) {
    const std::string before = ReadContents(fs_, kModel)["params.json"];
    EditParams(from, to);
    EXPECT_THAT(Open(), IsKind(kind, HasSubstr(message)));
    WriteParams(before);
  }
}

TEST_F(ReferenceFormatTest, TheTensorsSayHowLargeTheHiddenLayerIsWhereFairseq2Erred) {
  Save({{"consumer", "llama3"}});
  EditParams("\"multiple_of\": 8", "\"multiple_of\": 256");
  ASSERT_OK_AND_ASSIGN(const OpenedCheckpoint opened, Open({{"fairseq2-errors", "true"}}));
  EXPECT_THAT(opened.notes, Contains(HasSubstr("multiple_of 256 and ffn_dim_multiplier")));
}

TEST_F(ReferenceFormatTest, WithoutParamsTheModelMustBeNamed) {
  Save({});
  ASSERT_OK(RemoveTree(fs_, "/model/params.json"));
  EXPECT_THAT(Open(), IsKind(ErrorKind::kMissing, HasSubstr("--model")));
  EXPECT_THAT(Open({{"model", "7b"}}), IsKind(ErrorKind::kConfig, HasSubstr("16 is no even multiple")));
}

TEST_F(ReferenceFormatTest, TokensThatNobodyKnowsAreToldToBeAbsent) {
  Save({});
  ASSERT_OK_AND_ASSIGN(const OpenedCheckpoint known, Open());
  EXPECT_THAT(known.metadata.external_configs().at("config.json"), HasSubstr("\"bos_token_id\""));
  EXPECT_THAT(known.notes, Each(Not(HasSubstr("bos_token_id"))));

  DecoderConfig config = TinyConfig();
  AttentionOf(config).mutable_rotary()->set_theta(20000);
  Save({}, config);
  ASSERT_OK_AND_ASSIGN(const OpenedCheckpoint unknown, Open());
  EXPECT_THAT(unknown.metadata.external_configs().at("config.json"), Not(HasSubstr("bos_token_id")));
  EXPECT_THAT(unknown.notes, Contains(HasSubstr("no bos_token_id and eos_token_id")));
}

TEST_F(ReferenceFormatTest, AssetsTravelAndAChecklistDoesNot) {
  Save({});
  ASSERT_OK(WriteSmallFile(fs_, "/model/tokenizer.model", "bytes"));
  ASSERT_OK(WriteSmallFile(fs_, "/model/checklist.chk", std::string(32, '0') + "  tokenizer.model\n"));
  ASSERT_OK(WriteSmallFile(fs_, "/model/notes.xyz", "?"));

  ASSERT_OK_AND_ASSIGN(const OpenedCheckpoint opened, Open());

  ASSERT_EQ(opened.assets.size(), 1u);
  EXPECT_EQ(opened.assets[0].name, "tokenizer.model");
  EXPECT_THAT(opened.notes, Contains(HasSubstr("left checklist.chk behind")));
  EXPECT_THAT(opened.notes, Contains(HasSubstr("no checksum of \"consolidated.00.pth\"")));
  ASSERT_EQ(opened.listed.size(), 1u);
  EXPECT_EQ(opened.listed[0].path, "/model/tokenizer.model");
  EXPECT_EQ(opened.listed[0].md5, std::string(32, '0'));
  EXPECT_THAT(opened.notes, Contains(HasSubstr("\"notes.xyz\"")));
}

TEST_F(ReferenceFormatTest, AChecklistTellsThatFilesAreMissing) {
  Save({});
  ASSERT_OK(WriteSmallFile(fs_, "/model/checklist.chk", std::string(32, '0') + "  consolidated.01.pth\n"));
  EXPECT_THAT(Open(), IsKind(ErrorKind::kMissing, HasSubstr("\"consolidated.01.pth\"")));
}

TEST_F(ReferenceFormatTest, IsProbedByItsFiles) {
  const auto format = NewReferenceFormat();
  Save({});
  EXPECT_TRUE(format->Probe(fs_, kModel).value());
  // Where params.json is lost, --model says the rest; without the probe nobody would say so.
  ASSERT_OK(RemoveTree(fs_, "/model/params.json"));
  EXPECT_TRUE(format->Probe(fs_, kModel).value());
  ASSERT_OK(WriteSmallFile(fs_, "/model/config.json", "{}"));
  EXPECT_FALSE(format->Probe(fs_, kModel).value());
  ASSERT_OK(RemoveTree(fs_, kFirst));
  ASSERT_OK(RemoveTree(fs_, "/model/config.json"));
  EXPECT_FALSE(format->Probe(fs_, kModel).value());
}

// What tensors and names tell together, for models too large to write here.
class ResolveTest : public testing::Test {
 protected:
  static ReferenceTensors Tensors(absl::string_view name, int64_t files = 1) {
    const LlamaShape& shape = (*FindLlamaArchitecture(name))->shape;
    ReferenceTensors tensors;
    tensors.dim = shape.dim;
    tensors.layers = shape.layers;
    tensors.vocab = shape.vocab;
    tensors.ffn = shape.ffn;
    tensors.key_rows = shape.dim / shape.heads * std::max(shape.kv_heads, files > shape.kv_heads ? files : 0);
    tensors.files = files;
    return tensors;
  }

  static ReferenceHints Named(absl::string_view name) {
    ReferenceHints hints;
    hints.architecture = *FindLlamaArchitecture(name);
    return hints;
  }

  static ReferenceParams Params(const std::string& text) {
    return *ReadReferenceParams(*ParseJson(text, "test", {}), false);
  }
};

TEST_F(ResolveTest, ANameSettlesEverything) {
  for (const LlamaArchitecture& architecture : LlamaArchitectures()) {
    const ReferenceTensors tensors = Tensors(architecture.name);
    ASSERT_OK_AND_ASSIGN(const StoredKvHeads kv, FindKvHeads(tensors, nullptr, Named(architecture.name)));
    EXPECT_EQ(kv.stored, architecture.shape.kv_heads);
    ASSERT_OK_AND_ASSIGN(const ReferenceModel model,
                         ResolveReferenceModel(tensors, kv.stored, nullptr, Named(architecture.name)));
    EXPECT_THAT(model.notes, IsEmpty()) << architecture.name;
    EXPECT_EQ(model.max_positions, architecture.max_positions);
    ASSERT_OK_AND_ASSIGN(const LlamaFacts facts, FactsOf(model.config));
    EXPECT_EQ(facts.theta, architecture.rope_theta);
    EXPECT_EQ(facts.epsilon, architecture.norm_eps);
    EXPECT_EQ(facts.scale_factor, architecture.scale_factor);
  }
}

TEST_F(ResolveTest, TheBigModelInSixteenFiles) {
  const ReferenceTensors tensors = Tensors("llama3_1_405b", 16);
  ASSERT_OK_AND_ASSIGN(const StoredKvHeads named, FindKvHeads(tensors, nullptr, Named("llama3_1_405b")));
  EXPECT_EQ(named.copies, 2);
  // As its own params.json says it: only the contents tell.
  const ReferenceParams params = Params(R"({"n_heads": 128, "n_kv_heads": 16})");
  ASSERT_OK_AND_ASSIGN(const StoredKvHeads unknown, FindKvHeads(tensors, &params, {}));
  EXPECT_EQ(unknown.copies, 0);
  EXPECT_OK(FindKvHeads(tensors, &params, Named("llama3_1_405b")));
}

TEST_F(ResolveTest, ADefaultOfTheGenerationIsToldAsAnAssumption) {
  const ReferenceParams bare = Params(R"({"n_heads": 32, "n_kv_heads": 8})");
  ASSERT_OK_AND_ASSIGN(const ReferenceModel three, ResolveReferenceModel(Tensors("llama3_8b"), 8, &bare, {}));
  EXPECT_EQ(three.config.decoder().fixed().mixer().attention().rotary().theta(), 500000);
  EXPECT_THAT(three.notes, Contains(HasSubstr("assumed rope_theta 500000")));
  EXPECT_THAT(three.notes, Contains(HasSubstr("assumed norm_eps 1e-05")));
  EXPECT_THAT(three.notes, Contains(HasSubstr("without scaling")));

  const ReferenceParams one = Params(R"({"n_heads": 32, "norm_eps": 1e-6, "vocab_size": -1})");
  ASSERT_OK_AND_ASSIGN(const ReferenceModel first, ResolveReferenceModel(Tensors("7b"), 32, &one, {}));
  EXPECT_EQ(first.config.decoder().fixed().mixer().attention().rotary().theta(), 10000);
  EXPECT_THAT(first.notes, IsEmpty());
}

TEST_F(ResolveTest, TheFactorOfTheScalingFollowsFromTheShape) {
  const ReferenceParams params =
      Params(R"({"n_heads": 32, "n_kv_heads": 8, "norm_eps": 1e-5, "rope_theta": 500000, "use_scaled_rope": true})");
  const auto factor = [&](absl::string_view name, const ReferenceHints& hints) {
    const auto model = ResolveReferenceModel(Tensors(name), 8, &params, hints);
    EXPECT_OK(model);
    return model->config.decoder().fixed().mixer().attention().rotary().llama3().scale_factor();
  };
  EXPECT_EQ(factor("llama3_1_8b", {}), 8);
  EXPECT_EQ(factor("llama3_2_1b", {}), 32);
  ReferenceHints hints;
  hints.rope_factor = 4;
  EXPECT_EQ(factor("llama3_2_1b", hints), 4);

  // Also with tokens added, and not with another base.
  ReferenceTensors more = Tensors("llama3_2_1b");
  more.vocab = 128264;
  ASSERT_OK_AND_ASSIGN(const ReferenceModel extended, ResolveReferenceModel(more, 8, &params, {}));
  EXPECT_EQ(extended.config.decoder().fixed().mixer().attention().rotary().llama3().scale_factor(), 32);
  EXPECT_EQ(extended.max_positions, 131072);
  const ReferenceParams code = Params(R"({"n_heads": 32, "norm_eps": 1e-5, "rope_theta": 1000000})");
  ReferenceTensors code_llama = Tensors("llama2_7b");
  code_llama.vocab = 32016;
  ASSERT_OK_AND_ASSIGN(const ReferenceModel other, ResolveReferenceModel(code_llama, 32, &code, {}));
  EXPECT_EQ(other.max_positions, 16384);
}

TEST_F(ResolveTest, AnEpsilonThatFairseq2WroteIsNotTheModels) {
  const std::string keys = R"({"n_heads": 32, "rope_theta": 10000.0, "norm_eps": 1e-05})";
  const ReferenceParams nested = Params(absl::StrCat("{\"model\": ", keys, "}"));
  ReferenceHints hints;
  hints.norm_eps = 1e-6;
  ASSERT_OK_AND_ASSIGN(const ReferenceModel model, ResolveReferenceModel(Tensors("7b"), 32, &nested, hints));
  EXPECT_EQ(FactsOf(model.config)->epsilon, 1e-6);
  ASSERT_OK_AND_ASSIGN(const ReferenceModel named, ResolveReferenceModel(Tensors("7b"), 32, &nested, Named("7b")));
  EXPECT_EQ(FactsOf(named.config)->epsilon, 1e-5);
  EXPECT_THAT(named.notes, Contains(AllOf(HasSubstr("took norm_eps 1e-05"), HasSubstr("--norm-eps 1e-06"))));

  const ReferenceParams flat = Params(keys);
  EXPECT_THAT(ResolveReferenceModel(Tensors("7b"), 32, &flat, hints),
              IsKind(ErrorKind::kConfig, HasSubstr("norm_eps is 1e-05 in params.json, 1e-06 by the option")));
}

// They were those of the two vocabularies that were released, and else none, which transformers reads as 1 and 2.
TEST_F(ResolveTest, TokensAreThoseOfTheGeneration) {
  const auto tokens = [](absl::string_view name, int64_t vocab, const ReferenceParams* params,
                         const ReferenceHints& hints) {
    ReferenceTensors tensors = Tensors(name);
    tensors.vocab = vocab;
    const int64_t kv_heads = (*FindLlamaArchitecture(name))->shape.kv_heads;
    const auto model = ResolveReferenceModel(tensors, kv_heads, params, hints);
    EXPECT_OK(model);
    return std::make_pair(model->bos_token, model->eos_token);
  };
  const std::pair<int64_t, int64_t> llama2 = {1, 2};
  const std::pair<int64_t, int64_t> llama3 = {128000, 128001};
  const std::pair<int64_t, int64_t> unknown = {-1, -1};
  EXPECT_EQ(tokens("llama2_7b", 32001, nullptr, Named("llama2_7b")), llama2);
  EXPECT_EQ(tokens("llama3_8b", 128264, nullptr, Named("llama3_8b")), llama3);
  const ReferenceParams two = Params(R"({"n_heads": 32, "norm_eps": 1e-5, "vocab_size": -1})");
  EXPECT_EQ(tokens("llama2_7b", 32001, &two, {}), llama2);
  const ReferenceParams three = Params(R"({"n_heads": 32, "n_kv_heads": 8, "norm_eps": 1e-5, "rope_theta": 500000})");
  EXPECT_EQ(tokens("llama3_8b", 128264, &three, {}), llama3);
  const ReferenceParams code = Params(R"({"n_heads": 32, "norm_eps": 1e-5, "rope_theta": 1000000})");
  EXPECT_EQ(tokens("llama2_7b", 32016, &code, {}), unknown);
  EXPECT_EQ(tokens("llama2_7b", 32000, &code, {}), llama2);
}

TEST_F(ResolveTest, ANameAndParamsMustAgree) {
  const ReferenceParams params =
      Params(R"({"n_heads": 32, "n_kv_heads": 8, "norm_eps": 0.5, "rope_theta": 10000, "use_scaled_rope": false})");
  EXPECT_THAT(
      ResolveReferenceModel(Tensors("llama3_1_8b"), 8, &params, Named("llama3_1_8b")),
      IsKind(ErrorKind::kConfig, AllOf(HasSubstr("rope_theta is 10000 in params.json, 500000 of model llama3_1_8b"),
                                       HasSubstr("norm_eps is 0.5 in params.json, 1e-05 of model"),
                                       HasSubstr("use_scaled_rope is false in params.json, true of model"))));
  EXPECT_THAT(ResolveReferenceModel(Tensors("llama3_1_8b"), 8, nullptr, Named("llama3_1_70b")),
              IsKind(ErrorKind::kConfig, AllOf(HasSubstr("dim is 8192 of model llama3_1_70b, 4096 in the tensors"),
                                               HasSubstr("n_layers is 80"), HasSubstr("hidden layer is 28672"))));
}

TEST_F(ResolveTest, Fairseq2sWrongLayersAreBelievedOnlyWhenSaid) {
  const ReferenceParams params = Params(
      R"({"model": {"dim": 5120, "n_layers": 32, "n_heads": 40, "multiple_of": 256, "rope_theta": 10000.0, "norm_eps": 1e-05}})");
  EXPECT_THAT(ResolveReferenceModel(Tensors("llama2_13b"), 40, &params, {}),
              IsKind(ErrorKind::kExtra, HasSubstr("n_layers is 32 in params.json, 40 in the tensors")));
  ReferenceHints hints;
  hints.fairseq2_errors = true;
  EXPECT_OK(ResolveReferenceModel(Tensors("llama2_13b"), 40, &params, hints));
}

}  // namespace
}  // namespace waypoint::models
