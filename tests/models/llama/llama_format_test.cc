#include "models/llama/llama_format.h"

#include <functional>

#include "absl/strings/match.h"
#include "absl/strings/str_replace.h"
#include "checkpoint/base/json.h"
#include "checkpoint/checkpointer/checkpointer.h"
#include "checkpoint/container/safetensors/safetensors_sink.h"
#include "checkpoint/container/safetensors/safetensors_source.h"
#include "checkpoint/storage/memory_file_system.h"
#include "gmock/gmock.h"
#include "google/protobuf/wrappers.pb.h"
#include "tests/testing/decoder_state.h"
#include "tests/testing/directory_contents.h"
#include "tests/testing/random_tensors.h"

namespace waypoint::models {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr char kModel[] = "/model";

struct StoredTensor {
  std::string name;
  DType dtype = DType::kInvalid;
  Dims shape;
  std::vector<char> bytes;
};

// The tensors of one safetensors file.
std::vector<StoredTensor> ReadTensors(FileSystem& fs, const std::string& path) {
  std::vector<StoredTensor> tensors;
  const auto file = fs.OpenForRead(path, {});
  EXPECT_OK(file);
  const auto header = ReadSafetensorsHeader(**file, {});
  EXPECT_OK(header);
  const auto source = SafetensorsSource::Create(fs, {{path, *header, {}}}, {});
  for (int64_t i = 0; i < (*source)->manifest().size(); ++i) {
    const TensorMeta& meta = (*source)->manifest()[i];
    tensors.push_back({meta.name, meta.dtype, meta.shape, ReadWhole(**source, i).value()});
  }
  return tensors;
}

class LlamaFormatTest : public testing::Test {
 protected:
  void Save(const DecoderConfig& config) {
    const DecoderState state = NewDecoderState(config, 7, DType::kBF16, /*optimizer_state=*/false);
    WriteOptions options;
    options.format = "llama";
    options.overwrite = true;
    ASSERT_OK(WriteCheckpoint(fs_, kModel, options, state.metadata, *state.tensors, {}));
  }

  void EditTensors(const std::function<void(std::vector<StoredTensor>*)>& edit) {
    std::vector<StoredTensor> tensors = ReadTensors(fs_, "/model/model.safetensors");
    edit(&tensors);
    MemorySource source;
    std::vector<int64_t> all;
    for (const StoredTensor& tensor : tensors) {
      all.push_back(source.manifest().size());
      source.Add(tensor.name, tensor.dtype, tensor.shape, tensor.bytes);
    }
    ASSERT_OK(RemoveTree(fs_, "/model/model.safetensors"));
    ASSERT_OK_AND_ASSIGN(const auto sink, SafetensorsSink::Create(fs_, kModel, source.manifest(),
                                                                  {{"model.safetensors", all, {{"format", "pt"}}}}, 1));
    ASSERT_OK(Transfer(source, *sink, {}));
  }

  void EditConfig(const std::string& from, const std::string& to) {
    const std::string text = ReadContents(fs_, kModel)["config.json"];
    ASSERT_THAT(text, HasSubstr(from));
    Rewrite(fs_, "/model/config.json", absl::StrReplaceAll(text, {{from, to}}));
  }

  absl::StatusOr<OpenedCheckpoint> Open() { return NewLlamaFormat()->Open(fs_, kModel, {}); }

  MemoryFileSystem fs_;
};

StoredTensor* Find(std::vector<StoredTensor>* tensors, const std::string& name) {
  for (StoredTensor& tensor : *tensors) {
    if (tensor.name == name) {
      return &tensor;
    }
  }
  ADD_FAILURE() << name;
  return nullptr;
}

DecoderConfig Tied() {
  DecoderConfig config = TinyConfig();
  config.set_tied_embedding_weight(true);
  return config;
}

TEST_F(LlamaFormatTest, FilesAreMarkedForTransformers) {
  Save(TinyConfig());
  ASSERT_OK_AND_ASSIGN(const auto file, fs_.OpenForRead("/model/model.safetensors", {}));
  ASSERT_OK_AND_ASSIGN(const SafetensorsHeader header, ReadSafetensorsHeader(*file, {}));
  EXPECT_THAT(header.metadata, ElementsAre(testing::Pair("format", "pt")));
}

TEST_F(LlamaFormatTest, AllMisfitsOfTheTensorsAreInOneError) {
  Save(TinyConfig());
  EditTensors([](std::vector<StoredTensor>* tensors) {
    Find(tensors, "model.norm.weight")->name = "model.norm.wieght";
    StoredTensor* gate = Find(tensors, "model.layers.1.mlp.gate_proj.weight");
    std::swap(gate->shape[0], gate->shape[1]);
  });
  EXPECT_THAT(Open(), IsKind(ErrorKind::kMissing,
                             AllOf(HasSubstr("\"/model\""), HasSubstr("\"model.norm.weight\""),
                                   HasSubstr("\"model.norm.wieght\""),
                                   HasSubstr("\"model.layers.1.mlp.gate_proj.weight\" is [16, 24], the config wants "
                                             "[24, 16]"))));
}

TEST_F(LlamaFormatTest, AConfigWithMoreLayersThanTensors) {
  Save(TinyConfig());
  EditConfig("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 60000");
  EXPECT_THAT(Open(), IsKind(ErrorKind::kMissing, HasSubstr("60000")));
}

TEST_F(LlamaFormatTest, AConfigWithFewerLayersLeavesTensorsOver) {
  Save(TinyConfig());
  EditConfig("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1");
  EXPECT_THAT(Open(), IsKind(ErrorKind::kExtra, HasSubstr("9 that nothing expects: \"model.layers.1.")));
}

TEST_F(LlamaFormatTest, EqualCopiesOfATiedHeadAreKept) {
  Save(Tied());
  EditTensors([](std::vector<StoredTensor>* tensors) {
    StoredTensor head = *Find(tensors, "model.embed_tokens.weight");
    head.name = "lm_head.weight";
    tensors->push_back(head);
  });

  ASSERT_OK_AND_ASSIGN(const OpenedCheckpoint opened, Open());

  EXPECT_THAT(opened.metadata.stored_copies(), ElementsAre("lm_head.weight"));
  EXPECT_LT(opened.tensors->manifest().Find("head.output_weights"), 0);
  WriteOptions options;
  options.format = "llama";
  ASSERT_OK(WriteCheckpoint(fs_, "/again", options, opened.metadata, *opened.tensors, {}));
  std::vector<StoredTensor> again = ReadTensors(fs_, "/again/model.safetensors");
  EXPECT_EQ(Find(&again, "lm_head.weight")->bytes, Find(&again, "model.embed_tokens.weight")->bytes);
}

TEST_F(LlamaFormatTest, OtherValuesForATiedHeadAreRefused) {
  Save(Tied());
  EditTensors([](std::vector<StoredTensor>* tensors) {
    StoredTensor head = *Find(tensors, "model.embed_tokens.weight");
    head.name = "lm_head.weight";
    head.bytes.back() = static_cast<char>(head.bytes.back() ^ 1);
    tensors->push_back(head);
  });
  EXPECT_THAT(Open(), IsKind(ErrorKind::kConfig,
                             AllOf(HasSubstr("\"lm_head.weight\""), HasSubstr("\"model.embed_tokens.weight\""))));
}

TEST_F(LlamaFormatTest, RotaryFrequenciesAreNoted) {
  Save(TinyConfig());
  EditTensors([](std::vector<StoredTensor>* tensors) {
    tensors->push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", DType::kF32, {2}, std::vector<char>(8)});
  });
  ASSERT_OK_AND_ASSIGN(const OpenedCheckpoint opened, Open());
  EXPECT_THAT(opened.notes, Contains(HasSubstr("inv_freq")));
}

TEST_F(LlamaFormatTest, WeightsOfOtherTypesAreRefused) {
  Save(TinyConfig());
  EditTensors([](std::vector<StoredTensor>* tensors) {
    StoredTensor* norm = Find(tensors, "model.norm.weight");
    norm->dtype = DType::kI16;
  });
  EXPECT_THAT(Open(), IsKind(ErrorKind::kDType, HasSubstr("\"model.norm.weight\" is I16")));
}

TEST_F(LlamaFormatTest, AStateThatIsNotItsConfigIsRefused) {
  DecoderState state = NewDecoderState(TinyConfig(), 7);
  DecoderConfig other = TinyConfig();
  other.set_vocab_size(33);
  state.metadata.mutable_model_config()->PackFrom(other);
  WriteOptions options;
  options.format = "llama";
  EXPECT_THAT(WriteCheckpoint(fs_, kModel, options, state.metadata, *state.tensors, {}),
              IsKind(ErrorKind::kShape, HasSubstr("is [32, 16], the config wants [33, 16]")));

  other = TinyConfig();
  other.mutable_decoder()->set_num_blocks(3);
  state.metadata.mutable_model_config()->PackFrom(other);
  EXPECT_THAT(WriteCheckpoint(fs_, kModel, options, state.metadata, *state.tensors, {}),
              IsKind(ErrorKind::kMissing, HasSubstr("\"decoder.2.mixer.query.weight\"")));
  EXPECT_THAT(fs_.List("/").value(), IsEmpty());
}

TEST_F(LlamaFormatTest, OtherConfigsAreRefused) {
  DecoderState state = NewDecoderState(TinyConfig(), 7);
  state.metadata.mutable_model_config()->PackFrom(google::protobuf::StringValue());
  WriteOptions options;
  options.format = "llama";
  EXPECT_THAT(WriteCheckpoint(fs_, kModel, options, state.metadata, *state.tensors, {}),
              IsKind(ErrorKind::kUnsupported, HasSubstr("google.protobuf.StringValue")));
}

// There and back through the native format, over models that transformers wrote.
class LlamaFixtureTest : public testing::TestWithParam<const char*> {};

TEST_P(LlamaFixtureTest, EveryTensorComesBackBitForBit) {
  // Copied, because a test's files are links out of their directory.
  MemoryFileSystem fs;
  ASSERT_OK(fs.MakeDirectory("/original"));
  for (const auto& [name, bytes] :
       ReadContents(PosixFileSystem(), absl::StrCat("tests/testdata/fixtures/", GetParam(), "/hf"))) {
    ASSERT_OK(WriteSmallFile(fs, JoinPath("/original", name), bytes));
  }
  ASSERT_OK_AND_ASSIGN(const OpenedCheckpoint opened, NewLlamaFormat()->Open(fs, "/original", {}));
  ASSERT_OK(WriteCheckpoint(fs, "/native", {}, opened.metadata, *opened.tensors, {}));
  ASSERT_OK_AND_ASSIGN(CheckpointFormat * native, DetectFormat(fs, "/native"));
  ASSERT_OK_AND_ASSIGN(const OpenedCheckpoint between, native->Open(fs, "/native", {}));
  WriteOptions options;
  options.format = "llama";
  ASSERT_OK(WriteCheckpoint(fs, kModel, options, between.metadata, *between.tensors, {}));

  std::vector<StoredTensor> found = ReadTensors(fs, "/model/model.safetensors");
  size_t wanted = 0;
  for (const DirectoryEntry& entry : std::vector<DirectoryEntry>(fs.List("/original").value())) {
    if (entry.name.find(".safetensors") == std::string::npos || entry.name.find(".json") != std::string::npos) {
      continue;
    }
    for (const StoredTensor& tensor : ReadTensors(fs, JoinPath("/original", entry.name))) {
      if (absl::StrContains(tensor.name, "inv_freq")) {
        EXPECT_THAT(opened.notes, Contains(HasSubstr("inv_freq")));
        continue;
      }
      ++wanted;
      const StoredTensor* again = Find(&found, tensor.name);
      ASSERT_NE(again, nullptr);
      EXPECT_EQ(again->dtype, tensor.dtype);
      EXPECT_EQ(again->shape, tensor.shape);
      EXPECT_TRUE(again->bytes == tensor.bytes) << tensor.name;
    }
  }
  EXPECT_GT(wanted, 0u);
  EXPECT_EQ(found.size(), wanted);
  const auto config = [&fs](const std::string& directory) {
    return ParseJson(ReadContents(fs, directory)["config.json"], "config", Limits()).value();
  };
  EXPECT_EQ(config(kModel), config("/original"));
}

INSTANTIATE_TEST_SUITE_P(Fixtures, LlamaFixtureTest,
                         testing::Values("llama2_fp32", "llama31_fp32", "llama31_v5_bf16", "llama32_tied_bf16",
                                         "llama3_bf16_sharded"));

}  // namespace
}  // namespace waypoint::models
