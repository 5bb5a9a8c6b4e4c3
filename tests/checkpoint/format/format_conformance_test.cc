// What every format keeps, over all that are linked.  A new one is in the list by being registered.

#include "absl/strings/match.h"
#include "checkpoint/base/registry.h"
#include "checkpoint/checkpointer/checkpointer.h"
#include "checkpoint/storage/fault_file_system.h"
#include "checkpoint/storage/memory_file_system.h"
#include "gmock/gmock.h"
#include "tests/testing/decoder_state.h"
#include "tests/testing/directory_contents.h"
#include "tests/testing/random_tensors.h"

namespace waypoint {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr char kTarget[] = "/checkpoint";

bool IsWeight(const std::string& name) { return !absl::StrContains(name, '/'); }

class FormatConformanceTest : public testing::TestWithParam<std::string> {
 protected:
  CheckpointFormat& format() { return *Registry<CheckpointFormat>::Global().Find(GetParam()); }

  absl::Status Save(FileSystem& fs, const std::string& target, const SaveOptions& save = {},
                    const std::vector<Asset>& assets = {}) {
    WriteOptions options;
    options.format = GetParam();
    options.save = save;
    return WriteCheckpoint(fs, target, options, state_.metadata, *state_.tensors, assets).status();
  }

  OpenedCheckpoint Open(FileSystem& fs, const std::string& target) {
    auto opened = format().Open(fs, target, {});
    EXPECT_OK(opened);
    return opened.ok() ? std::move(opened).value() : OpenedCheckpoint();
  }

  // Every tensor that the format keeps is there, bytes and all.
  void ExpectState(FileSystem& fs, const std::string& target, bool optimizer_state) {
    const OpenedCheckpoint opened = Open(fs, target);
    ASSERT_NE(opened.tensors, nullptr);
    int64_t kept = 0;
    for (int64_t i = 0; i < state_.tensors->manifest().size(); ++i) {
      const TensorMeta& wanted = state_.tensors->manifest()[i];
      const int64_t found = opened.tensors->manifest().Find(wanted.name);
      if (!IsWeight(wanted.name) && !optimizer_state) {
        EXPECT_LT(found, 0) << wanted.name;
        continue;
      }
      ++kept;
      ASSERT_GE(found, 0) << wanted.name;
      EXPECT_EQ(opened.tensors->manifest()[found].dtype, wanted.dtype);
      EXPECT_EQ(opened.tensors->manifest()[found].shape, wanted.shape);
      ASSERT_OK_AND_ASSIGN(const std::vector<char> bytes, ReadWhole(*opened.tensors, found));
      EXPECT_EQ(bytes, ReadWhole(*state_.tensors, i).value()) << wanted.name;
    }
    EXPECT_EQ(opened.tensors->manifest().size(), kept);
    models::DecoderConfig config;
    ASSERT_TRUE(opened.metadata.model_config().UnpackTo(&config));
    EXPECT_EQ(config.DebugString(), models::TinyConfig().DebugString());
  }

  MemoryFileSystem fs_;
  DecoderState state_ = NewDecoderState(models::TinyConfig(), 5);
};

TEST_P(FormatConformanceTest, HasItsNameAndADescription) {
  EXPECT_EQ(format().name(), GetParam());
  EXPECT_THAT(format().description(), Not(IsEmpty()));
}

TEST_P(FormatConformanceTest, WhatIsSavedIsRestored) {
  ASSERT_OK(Save(fs_, kTarget));

  ExpectState(fs_, kTarget, format().supports_optimizer_state());
  if (!format().external()) {
    EXPECT_EQ(Open(fs_, kTarget).metadata.training().DebugString(), state_.metadata.training().DebugString());
  }
}

TEST_P(FormatConformanceTest, BoxesAreWhatTheWholeIs) {
  ASSERT_OK(Save(fs_, kTarget));
  const OpenedCheckpoint opened = Open(fs_, kTarget);
  RandomGeometry random(91);
  for (int64_t i = 0; i < opened.tensors->manifest().size(); ++i) {
    const TensorMeta& meta = opened.tensors->manifest()[i];
    for (int round = 0; round < 20; ++round) {
      const Box box = random.BoxIn(meta.shape);
      ASSERT_OK_AND_ASSIGN(const std::vector<char> part, ReadBox(*opened.tensors, i, box));
      EXPECT_EQ(part, ReadBox(*state_.tensors, state_.tensors->manifest().Find(meta.name), box).value());
    }
  }
}

TEST_P(FormatConformanceTest, IsDetectedAloneAmongAll) {
  ASSERT_OK(Save(fs_, kTarget));

  EXPECT_TRUE(format().Probe(fs_, kTarget).value());
  ASSERT_OK_AND_ASSIGN(const CheckpointFormat* detected, DetectFormat(fs_, kTarget));
  EXPECT_EQ(detected->name(), GetParam());
}

TEST_P(FormatConformanceTest, OtherDirectoriesAreNotOfThisFormat) {
  ASSERT_OK(fs_.MakeDirectory("/empty"));
  ASSERT_OK(fs_.MakeDirectory("/other"));
  ASSERT_OK(WriteSmallFile(fs_, "/other/config.json", R"({"model_type": "bert", "architectures": ["BertModel"]})"));

  for (const char* directory : {"/empty", "/other"}) {
    EXPECT_FALSE(format().Probe(fs_, directory).value()) << directory;
    EXPECT_FALSE(format().Open(fs_, directory, {}).ok()) << directory;
  }
  EXPECT_FALSE(format().Open(fs_, "/nowhere", {}).ok());
}

TEST_P(FormatConformanceTest, OptimizerStateThatIsLeftOutIsNoted) {
  SaveOptions options;
  options.optimizer_state = format().supports_optimizer_state() ? false : true;
  ASSERT_OK_AND_ASSIGN(const auto writer, format().Create(fs_, "", state_.metadata, *state_.tensors, {}, options));
  EXPECT_THAT(writer->notes(), Contains(HasSubstr("optimizer state")));

  ASSERT_OK(Save(fs_, kTarget, options));
  ExpectState(fs_, kTarget, false);
}

TEST_P(FormatConformanceTest, EqualStatesAreEqualBytes) {
  ASSERT_OK(Save(fs_, "/1"));
  // The same metadata, built anew.
  state_ = NewDecoderState(models::TinyConfig(), 5);
  SaveOptions options;
  options.block_bytes = 1;
  ASSERT_OK(Save(fs_, "/2", options));

  EXPECT_TRUE(ReadContents(fs_, "/1") == ReadContents(fs_, "/2"));
}

TEST_P(FormatConformanceTest, WeightsAreCastWhenAsked) {
  for (const DType dtype : kCastableTypes) {
    const std::string target = absl::StrCat("/", DTypeName(dtype));
    SaveOptions options;
    options.weights_dtype = dtype;
    ASSERT_OK(Save(fs_, target, options));
    const OpenedCheckpoint opened = Open(fs_, target);
    for (int64_t i = 0; i < opened.tensors->manifest().size(); ++i) {
      const TensorMeta& meta = opened.tensors->manifest()[i];
      ASSERT_EQ(meta.dtype, IsWeight(meta.name) ? dtype : DType::kF32) << meta.name;
    }
    // The values are exact in all types, so that the state comes back.
    ASSERT_OK_AND_ASSIGN(CheckpointFormat * again, DetectFormat(fs_, target));
    SaveOptions back;
    back.weights_dtype = DType::kBF16;
    WriteOptions write;
    write.format = again->name();
    write.save = back;
    ASSERT_OK(WriteCheckpoint(fs_, target + "-back", write, opened.metadata, *opened.tensors, opened.assets));
    ExpectState(fs_, target + "-back", format().supports_optimizer_state());
  }
}

TEST_P(FormatConformanceTest, SmallShardsHoldTheSame) {
  SaveOptions options;
  options.max_shard_bytes = 2000;
  ASSERT_OK(Save(fs_, kTarget, options));

  int shards = 0;
  for (const auto& [name, bytes] : ReadContents(fs_, kTarget)) {
    shards += absl::EndsWith(name, ".safetensors");
  }
  if (format().split_by_bytes()) {
    EXPECT_GT(shards, 3);
  }
  ExpectState(fs_, kTarget, format().supports_optimizer_state());
}

TEST_P(FormatConformanceTest, OptionsThatItDoesNotDeclareAreRefused) {
  SaveOptions save;
  save.format_options["no-such-option"] = "1";
  EXPECT_THAT(Save(fs_, kTarget, save), IsKind(ErrorKind::kRequest, HasSubstr("\"no-such-option\"")));
  EXPECT_FALSE(Exists(fs_, kTarget).value());

  ASSERT_OK(Save(fs_, kTarget));
  LoadOptions load;
  load.format_options["no-such-option"] = "1";
  EXPECT_THAT(format().Open(fs_, kTarget, load), IsKind(ErrorKind::kRequest, HasSubstr("\"no-such-option\"")));
}

TEST_P(FormatConformanceTest, PlanningWritesNothing) {
  FaultFileSystem watched(fs_);
  ASSERT_OK_AND_ASSIGN(const auto writer, format().Create(watched, "", state_.metadata, *state_.tensors, {}, {}));

  EXPECT_GE(static_cast<int64_t>(writer->PlanLines().size()), writer->sink().manifest().size());
  EXPECT_THAT(writer->PlanLines(), Contains(HasSubstr("embeddings.word_embeddings_weight")));
  EXPECT_EQ(watched.calls(), 0);
  EXPECT_THAT(ReadContents(fs_, "/"), IsEmpty());
}

TEST_P(FormatConformanceTest, AnAbandonedWriterSealsNothing) {
  ASSERT_OK(fs_.MakeDirectory(kTarget));
  {
    ASSERT_OK_AND_ASSIGN(const auto writer, format().Create(fs_, kTarget, state_.metadata, *state_.tensors, {}, {}));
    ASSERT_OK(Transfer(writer->source(), writer->sink(), {}));
  }
  // Where files of tensors alone are a checkpoint, as Meta's and fairseq2's may be, only the directory's rename says that
  // it is done.
  const bool file_is_enough = GetParam() == "fairseq2" || GetParam() == "reference";
  EXPECT_EQ(format().Probe(fs_, kTarget).value(), file_is_enough);
}

TEST_P(FormatConformanceTest, AFailedSaveLeavesNothing) {
  ASSERT_OK(fs_.MakeDirectory("/out"));
  for (int64_t k = 0;; ++k) {
    FaultFileSystem faulty(fs_, Fault::kEnospc, k);
    const absl::Status status = Save(faulty, "/out/checkpoint");
    if (!faulty.fired()) {
      if (faulty.calls() > k) {
        ASSERT_OK(RemoveTree(fs_, "/out/checkpoint"));
        continue;  // a call that needs no space
      }
      break;
    }
    EXPECT_THAT(status, IsKind(ErrorKind::kNoSpace));
    EXPECT_FALSE(Exists(fs_, "/out/checkpoint").value()) << k;
    for (const DirectoryEntry& entry : std::vector<DirectoryEntry>(fs_.List("/out").value())) {
      EXPECT_NE(entry.type, FileType::kDirectory) << entry.name << " after a failure of call " << k;
    }
  }
}

TEST_P(FormatConformanceTest, AssetsTravelByteForByte) {
  const std::string text = "{\"version\": \"1.0\", \"truncation\": null, \"model\": {\"type\": \"BPE\"}}\n";
  ASSERT_OK(WriteSmallFile(fs_, "/tokenizer.json", text));
  ASSERT_OK(Save(fs_, kTarget, {}, {{"tokenizer.json", "/tokenizer.json", static_cast<int64_t>(text.size()), {}}}));

  const OpenedCheckpoint opened = Open(fs_, kTarget);

  ASSERT_EQ(opened.assets.size(), 1u);
  EXPECT_EQ(opened.assets[0].name, "tokenizer.json");
  EXPECT_EQ(ReadSmallFile(fs_, opened.assets[0].path, 1000, "test").value(), text);
}

TEST_P(FormatConformanceTest, AnEmptyAssetTravels) {
  ASSERT_OK(WriteSmallFile(fs_, "/merges.txt", ""));
  ASSERT_OK(Save(fs_, kTarget, {}, {{"merges.txt", "/merges.txt", 0, {}}}));

  const OpenedCheckpoint opened = Open(fs_, kTarget);

  ASSERT_EQ(opened.assets.size(), 1u);
  EXPECT_EQ(opened.assets[0].size_bytes, 0);
  EXPECT_EQ(ReadSmallFile(fs_, opened.assets[0].path, 1000, "test").value(), "");
}

TEST_P(FormatConformanceTest, ADamagedAssetIsNotCopied) {
  ASSERT_OK(WriteSmallFile(fs_, "/tokenizer.json", "{}"));
  ChunkDigests digests;
  digests.digests = {1};
  EXPECT_THAT(Save(fs_, kTarget, {}, {{"tokenizer.json", "/tokenizer.json", 2, digests}}),
              IsKind(ErrorKind::kChecksum));
  EXPECT_THAT(Save(fs_, kTarget, {}, {{"tokenizer.json", "/tokenizer.json", 3, {}}}), IsKind(ErrorKind::kTruncated));
  EXPECT_FALSE(Exists(fs_, kTarget).value());
}

INSTANTIATE_TEST_SUITE_P(Registered, FormatConformanceTest,
                         testing::ValuesIn(Registry<CheckpointFormat>::Global().Names()),
                         [](const testing::TestParamInfo<std::string>& info) { return info.param; });

TEST(FormatsTest, AllAreLinked) {
  EXPECT_THAT(Registry<CheckpointFormat>::Global().Names(), testing::IsSupersetOf({"llama", "native"}));
}

}  // namespace
}  // namespace waypoint
